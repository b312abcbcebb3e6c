"""To which organisation belongs what a catalog knows: to one."""

from __future__ import annotations

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.identity import organisation
from flexai.checkpoints.names import new_id
from flexai.checkpoints.owner import Owner
from tests.checkpoints.catalog.steps import at_once, begin, push
from tests.checkpoints.catalog.test_jobs import begin as begin_job
from tests.checkpoints.samples import OWNER

STRANGER = Owner(user_id=new_id(), org_id=new_id(), name="bob@elsewhere")


def test_all_that_several_users_make_belongs_to_the_organisation_of_the_first_one(catalog: Catalog) -> None:
    first = push(catalog, "llama").id
    second, _ = begin(catalog, "mistral", owner=STRANGER)
    job = begin_job(catalog, owner=STRANGER).job
    organisations = {catalog.checkpoints.get_by_id(one).owner_org_id for one in (first, second)}
    assert organisations | {job.owner_org_id} == {OWNER.org_id}
    assert catalog.checkpoints.get_by_id(second).creator_user_id == job.creator_user_id == STRANGER.user_id


def test_users_who_begin_at_once_agree_on_one_organisation(catalog: Catalog) -> None:
    def ask(number: int) -> str:
        with catalog.database.writing() as transaction:
            return organisation(transaction, (OWNER if number % 2 else STRANGER).org_id)

    assert len(set(map(str, at_once(ask)))) == 1

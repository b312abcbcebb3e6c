"""The operations, one module each:

    push      bring files under a name
    naming    give a checkpoint that is there another name
    fetch     bring a checkpoint's files to a directory of this machine
    export    bring a checkpoint's files to a provider
    mirror    export a set of checkpoints to a second provider
    listing   list checkpoints by name, job, owner, status, time and kind
    inspect   say everything about a checkpoint or a training job
    diff      say how two checkpoints differ
    overview  count what the catalog holds
    delete    delete a checkpoint, and undelete and protect it
    prune     delete by rules
    gc        delete the bytes that no checkpoint needs
    verify    read content and compare it with its digests
    scrub     verify a part of the store in each run
    repair    put sound content in the place of damaged content
    recover   rebuild a lost catalog from the store
    training  run, stop and delete training jobs, and read their logs
    capture   store what a training job wrote
    preview   what push, fetch, export, delete and gc would do

Beside them are what they need of their surroundings, and ``support``, which holds what helps them:

    system             the catalog, the store and the settings that every operation works with
    store_owner        which catalog the store belongs to
    looking            the catalog as it is, to be read without the rest
    requests           what can be asked for, one value for each operation: here of fetches and exports
    push_requests      the same of pushes
    change_requests    the same of deleting, undeleting and protecting
    store_requests     the same of operations on the whole store
    training_requests  the same of operations on training jobs
    results            what the operations return
"""

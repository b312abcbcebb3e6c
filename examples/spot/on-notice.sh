#!/bin/bash
# Run a command, and send it TERM once the cloud announces that it takes this machine away:
#
#   bash on-notice.sh flexai training run my-run … -- python train.py
#
# AWS announces it two minutes before, Google Cloud half a minute. Their metadata services tell; none sends a signal.
aws=${AWS_METADATA:-http://169.254.169.254}
google=${GOOGLE_METADATA:-http://metadata.google.internal}

ask() {
    curl --silent --fail --max-time 2 --noproxy '*' "$@"
}

is_announced() {
    # On AWS this page is there from the announcement on.
    token=$(ask --request PUT --header "X-aws-ec2-metadata-token-ttl-seconds: 60" "$aws/latest/api/token") &&
        ask --header "X-aws-ec2-metadata-token: $token" "$aws/latest/meta-data/spot/instance-action" && return
    [ "$(ask --header "Metadata-Flavor: Google" "$google/computeMetadata/v1/instance/preempted")" = TRUE ]
}

"$@" &
command=$!
{
    until is_announced; do sleep "${NOTICE_SECONDS:-5}"; done
    kill -TERM "$command"
} >/dev/null 2>&1 &
watch=$!

# A stop of this script is one of the command, which ends a wait early; the command still saves and stores then.
trap 'told=yes; kill -TERM "$command"' TERM INT
told=yes
while [ "$told" ]; do
    told=
    wait "$command"
    code=$?
done
kill "$watch" 2>/dev/null
exit "$code"

#!/usr/bin/env bash
# Sends a change to rekey, signed as Standard Webhooks 1.0 has it. Needs bash, curl and python3.
#
#   REKEY_URL=https://rekey.contoso.example REKEY_SECRET=whsec_… ./send-change.sh servicenow/acme change.json
#
# The first argument is the kind of the source and its id, the second a file with the record. Sending the same record again is safe: it gets the same
# answer. Prints the answer; ends with 0 only when it was taken.
set -euo pipefail

source=${1:?the kind of the source and its id, like servicenow/acme}
file=${2:?a file with the record}
: "${REKEY_URL:?where rekey is}" "${REKEY_SECRET:?the secret of the source}"

id=msg_$(python3 -c 'import uuid; print(uuid.uuid4().hex)')
timestamp=$(date +%s)
# From the environment, not the command line: other users of the machine can read that one.
signature=$(REKEY_SECRET="$REKEY_SECRET" python3 -c '
import base64, hashlib, hmac, os, sys
key = base64.b64decode(os.environ["REKEY_SECRET"].removeprefix("whsec_"))
body = open(sys.argv[3], "rb").read()
text = f"{sys.argv[1]}.{sys.argv[2]}.".encode() + body
print("v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode())
' "$id" "$timestamp" "$file")

exec curl --silent --show-error --fail-with-body --max-time 10 --retry 5 --retry-connrefused \
    --header 'Content-Type: application/json' --header "webhook-id: $id" --header "webhook-timestamp: $timestamp" \
    --header "webhook-signature: $signature" --data-binary "@$file" --write-out '\n' "$REKEY_URL/v1/hooks/$source"

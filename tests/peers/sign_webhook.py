"""Signs a webhook with the Standard Webhooks library: reads {"secret", "id", "body"} as a line of JSON, prints the headers as JSON."""

import json
import sys
from datetime import datetime, timezone

from standardwebhooks.webhooks import Webhook

asked = json.loads(sys.stdin.readline())
now = datetime.now(tz=timezone.utc)
signature = Webhook(asked["secret"]).sign(asked["id"], now, asked["body"])
print(json.dumps({"webhook-id": asked["id"], "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}))

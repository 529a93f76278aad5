"""What bugfeed signs is verified by the library of standardwebhooks.com, and what that signs is taken by bugfeed: the
requests of hooks/golden/deliver/signed.json.

    pip install 'standardwebhooks>=1.1,<2' && python test_signed.py
"""

import base64
import json
import unittest
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional
from unittest import mock

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

GOLDEN = json.loads((Path(__file__).parents[3] / "hooks/golden/deliver/signed.json").read_text(encoding="utf-8"))


def verify(secret: str, body: str, headers: dict[str, str], at: int) -> Any:
    """Verifies as if this were the time."""

    class Then(datetime):
        @classmethod
        def now(cls, tz: Optional[timezone] = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(at, tz)

    with mock.patch("standardwebhooks.webhooks.datetime", Then):
        return Webhook(secret).verify(body.encode(), headers)


class Signed(unittest.TestCase):
    def test_each_request_is_verified_by_each_secret_that_signed_it(self) -> None:
        self.assertGreaterEqual(len(GOLDEN["requests"]), 12)
        for request in GOLDEN["requests"]:
            body, headers = request["body"], request["headers"]
            for secret in request["secrets"]:
                verified = verify(secret, body, headers, int(headers["webhook-timestamp"]))
                self.assertEqual(verified, json.loads(body), request["name"])

    def test_nothing_else_is(self) -> None:
        request = GOLDEN["requests"][0]
        secret, body, headers = request["secrets"][0], request["body"], request["headers"]
        sent = int(headers["webhook-timestamp"])
        for late in (-300, 300):
            verify(secret, body, headers, sent + late)
        other = "whsec_" + base64.b64encode(bytes([9]) * 32).decode()
        for what, args in {
            "too early": (secret, body, headers, sent - 301),
            "too late": (secret, body, headers, sent + 301),
            "another body": (secret, body.replace("1234", "1235"), headers, sent),
            "another id": (secret, body, {**headers, "webhook-id": headers["webhook-id"] + "0"}, sent),
            "another time": (secret, body, {**headers, "webhook-timestamp": str(sent + 1)}, sent),
            "no signature": (secret, body, {**headers, "webhook-signature": ""}, sent),
            "another secret": (other, body, headers, sent),
        }.items():
            with self.subTest(what), self.assertRaises(WebhookVerificationError):
                verify(*args)

    def test_a_receivers_own_calls_have_the_signature_that_bugfeed_expects(self) -> None:
        self.assertEqual(len(GOLDEN["calls"]), 2)
        for call in GOLDEN["calls"]:
            headers = call["headers"]
            time = datetime.fromtimestamp(0, timezone.utc) + timedelta(seconds=int(headers["webhook-timestamp"]))
            signed = Webhook(call["secret"]).sign(headers["webhook-id"], time, f"{call['method']} {call['target']}.")
            self.assertEqual(signed, headers["webhook-signature"])


if __name__ == "__main__":
    unittest.main()

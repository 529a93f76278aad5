"""A bot that tells a chat which bugs changed, through an incoming webhook that takes {"text": …}, as those of Slack,
Mattermost and matrix-hookshot do. At least once: how far it is, is stored when the chat has taken the message, and not
before; a chat that is away is asked again. After a gap, one message says what to look at again.

    pip install ./clients/python
    python examples/python-bot/bot.py --webhook http://127.0.0.1:8065/hooks/KEY 1234 5678

The address of a webhook is a secret: in production give it as BUGFEED_WEBHOOK. Where the gateway asks for a token, that
is BUGFEED_TOKEN.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import urllib.error
import urllib.request
from typing import Optional

from bugfeed_client import Bugfeed, BugfeedError, Change, Event

#: So many bugs are named after a gap.
MAX_NAMED = 20
#: No longer than this between two attempts, in seconds.
MAX_WAIT_S = 60.0
#: So many refusals in a row are believed: one may be a proxy's, while the chat behind it restarts.
REFUSALS = 3


class Refused(Exception):
    """The chat does not take this message."""


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET, whose answer would be taken for the chat's yes."""

    def redirect_request(self, *_: object) -> None:
        return None


OPENER = urllib.request.build_opener(NoRedirects)


def text(event: Event, link: str) -> str:
    if isinstance(event, Change):
        return f"Bug {event.bug} changed: {link.format(bug=event.bug)}"
    named = [link.format(bug=bug) for bug in event.bugs[:MAX_NAMED]]
    rest = f" and {len(event.bugs) - MAX_NAMED} more" if len(event.bugs) > MAX_NAMED else ""
    return f"Some changes were missed. Look at these again: {' '.join(named)}{rest}"


def post(webhook: str, message: str) -> float:
    """Posts once. Returns 0 when the chat has it, otherwise how long it wants to be left alone, in seconds."""
    body = json.dumps({"text": message}).encode()
    request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"})
    try:
        with OPENER.open(request, timeout=30):
            return 0
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code not in (408, 429):
            raise Refused(f"the webhook answers {error.code} {error.reason}: is its address right?") from error
        print(f"the chat answers {error.code}", file=sys.stderr)
        wait = error.headers.get("Retry-After", "")
        return max(float(wait), 1.0) if wait.isdecimal() else 1.0
    except OSError as error:
        print(f"no answer from the chat: {error}", file=sys.stderr)
        return 1.0


async def deliver(webhook: str, message: str) -> None:
    """Returns when the chat has the message."""
    backoff, refusals = 1.0, 0
    while True:
        try:
            wait = await asyncio.to_thread(post, webhook, message)
        except Refused as error:
            refusals += 1
            if refusals == REFUSALS:
                raise
            print(error, file=sys.stderr, flush=True)
            wait = 1.0
        else:
            refusals = 0
            if not wait:
                return
        await asyncio.sleep(min(max(wait, backoff * random.uniform(0.5, 1)), MAX_WAIT_S))
        backoff = min(backoff * 2, MAX_WAIT_S)


async def run(options: argparse.Namespace) -> None:
    token = os.environ.get("BUGFEED_TOKEN")
    async with Bugfeed(options.feed, token=token, state=options.state, on_state=report, on_feed=report_feed) as feed:
        # The cursor is stored when the loop asks for the next event, thus after the chat has taken the message.
        async for event in feed.watch(options.bugs):
            await deliver(options.webhook, text(event, options.link))
            print("told the chat:", *event.bugs[:MAX_NAMED], flush=True)


def report(state: str, reason: str) -> None:
    print(state, reason, file=sys.stderr, flush=True)


def report_feed(state: str, since: Optional[str]) -> None:
    report(f"the feed is {state}", f"since {since}" if since else "")


def address(text: str) -> str:
    """Checks it here: whoever complains of it later would show it."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("a webhook's address begins with https://")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Tells a chat which bugs changed.")
    webhook = os.environ.get("BUGFEED_WEBHOOK")
    about = "the chat's; or BUGFEED_WEBHOOK"
    parser.add_argument("--webhook", type=address, default=webhook, required=not webhook, help=about)
    parser.add_argument("--feed", default="ws://127.0.0.1:8844/", help="the gateway (%(default)s)")
    parser.add_argument("--link", default="https://bugs.example.org/show_bug.cgi?id={bug}", help="(%(default)s)")
    parser.add_argument("--state", default="chat.cursor", help="a file of its own for each set of bugs (%(default)s)")
    parser.add_argument("bugs", nargs="+", type=int)
    try:
        asyncio.run(run(parser.parse_args()))
    except (BugfeedError, Refused) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()

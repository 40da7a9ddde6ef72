"""The options of Celery's transport can be shown: `celery inspect stats` sends them as JSON."""

import json
from typing import Any

from kombu.utils.json import dumps

from syncctl.broker.messages import MessageCheck


def test_the_check_of_messages_is_shown_by_its_name() -> None:
    seal: Any = None
    assert json.loads(dumps({"admit": MessageCheck(seal, ["orders"])})) == {"admit": "MessageCheck"}

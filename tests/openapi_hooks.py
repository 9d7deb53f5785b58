"""What the child process of `test_openapi_calls` does beside: models that are there.

A name made up at random is no model, and all that a request asks beside it would never be looked at.
So one that is well-formed is replaced; names that are not stay as they are, to be refused.
"""

import schemathesis

from cortex.demo import MODEL_ID

LONGEST = 256


@schemathesis.hook
def before_call(context, case, kwargs) -> None:
    body = case.body
    if not isinstance(body, dict):
        return
    for name in ("model", "id"):
        if isinstance(body.get(name), str) and 1 <= len(body[name]) <= LONGEST:
            body[name] = MODEL_ID
    if isinstance(body.get("spec"), dict):
        body["spec"]["id"] = MODEL_ID

"""Questions to a NeuronModel's Service, over plain HTTP from this machine."""

import json
import urllib.error
import urllib.request
from typing import Any

from tests.waiting import PATIENCE_SECONDS

from .neuronmodels import Applied
from .waiting import eventually

# An address of this machine's own cluster: never through a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def url(model: Applied) -> str:
    service = model.cluster.get("Service", model.name, model.namespace)
    assert service is not None, f"{model.name} has no Service"
    return f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}/v1"


def completion(model: Applied, prompt: str, *, num_tokens: int = 12) -> str:
    answer = _post(model, "completions", {"prompt": prompt, "max_tokens": num_tokens, "temperature": 0})
    text: str = answer["choices"][0]["text"]
    return text


def _post(model: Applied, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url(model)}/{path}",
        data=json.dumps({"model": model.name, **body}).encode(),
        headers={"Content-Type": "application/json"},
    )
    return eventually(lambda: _answer(request), what=f"an answer of {request.full_url}", instead=model.story)


def _answer(request: urllib.request.Request) -> Any:
    """None where nobody listens: a node routes to a new pod a moment after the pod is ready."""
    try:
        with _OPENER.open(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionRefusedError):
            return None
        raise

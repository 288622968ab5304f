"""The official client, unmodified, as a program in a pod has it: only the resolver is the cluster's.

Run with a base URL and a JSON object of arguments to `chat.completions.create`; prints a line of JSON for each piece.
"""

import json
import sys

from openai import OpenAI


def main(base_url: str, arguments: str) -> None:
    client = OpenAI(base_url=base_url, api_key="none", max_retries=0)
    served = [model.id for model in client.models.list()]
    print(json.dumps({"models": served}), flush=True)
    wanted = json.loads(arguments)
    answer = client.chat.completions.create(**wanted)
    if not wanted.get("stream"):
        choice = answer.choices[0]
        print(json.dumps({"text": choice.message.content, "finish": choice.finish_reason}), flush=True)
        return
    for piece in answer:
        for choice in piece.choices:
            print(json.dumps({"text": choice.delta.content or "", "finish": choice.finish_reason}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

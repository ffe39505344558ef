"""Speaks to a server of ours through OpenAI's own client (PyPI openai, 3.57.0), unchanged.

python openai_client.py http://127.0.0.1:8080/v1 image.png mask.png     (token: secret)
"""

import base64
import sys

import openai

url, image, mask = sys.argv[1:]
client = openai.OpenAI(base_url=url, api_key="secret", max_retries=0)

models = client.models.list().data
assert [model.id for model in models] == ["tiny"], models
assert client.models.retrieve("tiny").owned_by == "ace"


def is_png(b64):
    return base64.b64decode(b64)[:8] == b"\x89PNG\r\n\x1a\n"


made = client.images.generate(prompt="a big red circle on a gray background", n=2, size="64x64", extra_body={"seed": 3, "num_steps": 4})
assert len(made.data) == 2 and all(is_png(one.b64_json) for one in made.data)
assert made.usage.total_tokens > 0 and made.size == "64x64"
again = client.images.generate(prompt="a big red circle on a gray background", size="64x64", extra_body={"seed": 3, "num_steps": 4})
assert again.data[0].b64_json == made.data[0].b64_json

edited = client.images.with_raw_response.edit(
    image=open(image, "rb"), mask=open(mask, "rb"), prompt="make the circle green", extra_body={"task": "recolor", "seed": 5}
)
assert edited.headers["x-ace-mask"] == "alpha", edited.headers
assert is_png(edited.parse().data[0].b64_json)

both = client.images.edit(image=[open(image, "rb"), open(image, "rb")], prompt="the item", extra_body={"num_steps": 2, "loras": ["subject"]})
assert is_png(both.data[0].b64_json)

events = list(client.images.edit(image=open(image, "rb"), mask=open(mask, "rb"), prompt="make the circle green", stream=True, partial_images=2))
kinds = [event.type for event in events]
assert kinds == ["image_edit.partial_image"] * 2 + ["image_edit.completed"], kinds
assert events[-1].usage.output_tokens > 0 and is_png(events[-1].b64_json)


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


bad = refused(openai.BadRequestError, lambda: client.images.generate(prompt=" "))
assert (bad.param, bad.type) == ("prompt", "invalid_request_error"), bad
missing = refused(openai.NotFoundError, lambda: client.images.generate(prompt="p", model="other"))
assert missing.code == "model_not_found", missing
stranger = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
unknown = refused(openai.AuthenticationError, lambda: stranger.models.list())
assert unknown.code == "invalid_api_key", unknown
refused(openai.BadRequestError, lambda: client.images.edit(image=open(mask, "rb"), prompt="p", extra_body={"num_steps": 0}))
print("all is well")

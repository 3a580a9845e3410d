"""The usual Python design: an ASGI app under uvicorn, the openai SDK's typed stream, one send_json per token.

    python server.py --port 8080 --upstream http://127.0.0.1:9000/v1

FastAPI's WebSocket is Starlette's own class, so Starlette alone costs the same per token.
"""

from __future__ import annotations

import argparse

import uvicorn
from openai import AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletionMessageParam
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


def build_app(upstream: str) -> Starlette:
    """The gateway: /ws takes {"model", "messages"} and answers with tokens."""
    client = AsyncOpenAI(base_url=upstream, api_key="x", max_retries=0)

    async def answer(socket: WebSocket, model: str, messages: list[ChatCompletionMessageParam]) -> None:
        async with await client.chat.completions.create(
            model=model, messages=messages, stream=True
        ) as stream:  # a viewer that leaves in the middle ends the upstream call too
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    await socket.send_json({"type": "token", "content": chunk.choices[0].delta.content})
        await socket.send_json({"type": "done"})

    async def gateway(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                request = await socket.receive_json()
                try:
                    await answer(socket, request["model"], request["messages"])
                except OpenAIError as error:
                    await socket.send_json({"type": "error", "message": str(error)})
        except WebSocketDisconnect:
            pass

    return Starlette(routes=[WebSocketRoute("/ws", gateway)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="base URL, for example http://127.0.0.1:9000/v1")
    options = parser.parse_args()
    app = build_app(options.upstream)
    uvicorn.run(app, host="127.0.0.1", port=options.port, loop="uvloop", http="httptools", log_level="warning")


if __name__ == "__main__":
    main()

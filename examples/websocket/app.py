"""A WebSocket app: /ws answers each text with JSON that holds it. On SIGTERM it says goodbye to every client."""

import os
import weakref

from aiohttp import WSCloseCode, WSMsgType, web

RELEASE = os.environ.get("SEAWAY_RELEASE", "no release")
INSTANCE = os.environ.get("SEAWAY_INSTANCE", "no instance")
SOCKETS = web.AppKey("sockets", weakref.WeakSet)


async def greet(request):
    return web.Response(text=f"Hello from {RELEASE}, instance {INSTANCE}: open a WebSocket at /ws\n")


async def health(request):
    return web.Response(text="well\n")


async def release(request):
    return web.json_response({"release": RELEASE, "instance": INSTANCE, "n": request.query.get("n")})


async def echo(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    request.app[SOCKETS].add(socket)
    count = 0
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            count += 1
            await socket.send_json({"echo": message.data, "count": count, "release": RELEASE, "instance": INSTANCE})
    return socket


async def name_release(request, response):
    response.headers["x-release"] = RELEASE


async def say_goodbye(app):
    for socket in set(app[SOCKETS]):
        await socket.close(code=WSCloseCode.GOING_AWAY, message=b"this instance stops, connect again")


def make_app():
    app = web.Application()
    app[SOCKETS] = weakref.WeakSet()
    app.add_routes([
        web.get("/", greet), web.get("/health", health), web.get("/release", release), web.get("/ws", echo),
    ])  # fmt: skip
    app.on_response_prepare.append(name_release)
    app.on_shutdown.append(say_goodbye)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), access_log=None, print=None)

"""Says something to the app over its WebSocket and prints the answer: python client.py HOST TEXT [PORT]."""

import asyncio
import sys

import aiohttp


async def say(host, text, port="8080"):
    # The routers are on this machine; not every resolver knows that names in .localhost are, too.
    url, headers = f"http://127.0.0.1:{port}/ws", {"Host": host}
    async with aiohttp.ClientSession() as client, client.ws_connect(url, headers=headers) as socket:
        await socket.send_str(text)
        print(await socket.receive_str())


asyncio.run(say(*sys.argv[1:]))

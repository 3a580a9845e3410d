"""What the demo provider says: every kind of text that a chat page has to show well."""

from __future__ import annotations

_WINDOWS = """## How a credit window works

A sender may have only so much **in flight**: chunks that were sent and not yet acknowledged.

1. The viewer opens with a window of, say, 50 chunks.
2. The server sends chunks 1 to 50 and then *waits*.
3. The viewer renders them and acknowledges: `chunk_ack` with the last id it has shown.
4. Each ack opens the window again; nothing else does. Time does **not**.

| who is slow | what happens | what is lost |
|---|---|---|
| the network | the window closes, the server waits | nothing |
| the browser tab | acks come late, the server waits | nothing |
| the model | the window stays open | nothing |

> A timeout that widens a window is not flow control; it is a wish.

So a phone on a train 🚆 and a desktop on fibre ⚡ can follow the same answer, each at its own pace.
"""

_CODE = """Here is a small reader for server-sent events. It keeps what is not a whole event yet:

```python
def feed(buffer: bytes, data: bytes) -> tuple[list[bytes], bytes]:
    *events, rest = (buffer + data).split(b"\\n\\n")
    return events, rest
```

Three things to notice:

- it never decodes half a character, because it cuts at *bytes*;
- an event that arrives in two reads is joined in `rest`;
- the caller decides how large `rest` may become — **always** put a limit there.

And the same idea in JavaScript:

```js
let rest = "";
for await (const piece of stream) {
  const events = (rest + piece).split("\\n\\n");
  rest = events.pop();
  events.forEach(show);
}
```

A nested list, because pages must show these too:

- streams
  - live
  - replayed
    - from the start
    - from chunk 57
- sessions
"""

_LANGUAGES = """### Text is more than ASCII

The same greeting, in a few scripts:

- 日本語：こんにちは、世界。今日はいい天気ですね。
- 中文：你好，世界！流式输出需要正确处理多字节字符。
- 한국어: 안녕하세요, 세상!
- العربية: مرحبا بالعالم
- हिन्दी: नमस्ते दुनिया
- Ελληνικά: Γειά σου Κόσμε

Emoji are made of several code points: 👩‍👩‍👧‍👦 is seven of them, 🇪🇺 is two, 👍🏽 is two.
A stream that cuts between them shows boxes; one that counts in UTF-16 units resumes in the wrong place.

Mathematics: ∑ᵢ xᵢ² ≤ (∑ᵢ |xᵢ|)², and “typographic” quotes – with dashes — too.
"""

_HELLO = """Hello! 👋 I am the **demo model**: I need no key and know only a few answers.

Try one of these:

- *How does the window work?*
- *Show me some code.*
- *Say hello in many languages.*

While I type, look **Under the hood** and press **Drop connection**: the answer goes on behind your back, and when you
return you get exactly what you missed — no token lost, none twice. Or press **Freeze reader** and watch the window
fill, until I wait for you.
"""

ANSWERS = [
    (r"window|flow|ack|backpressure", _WINDOWS),
    (r"code|python|javascript|program", _CODE),
    (r"language|hello in|unicode|emoji|日本|中文", _LANGUAGES),
    (r"", _HELLO),
]

# fmt: off
WORDS = [
    "the", "answer", "streams", "on", "while", "every", "viewer", "reads", "at", "its", "own", "pace", "and", "nothing",
    "is", "lost", "because", "one", "durable", "log", "keeps", "each", "numbered", "chunk", "until", "a", "window",
    "opens", "again", "so", "slow", "phone", "waits", "fast", "screen", "runs", "both", "see", "same", "words",
]
# fmt: on

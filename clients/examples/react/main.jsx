import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { useChatStream } from "wsstream/react";

const url = new URL("/ws", location.href.replace(/^http/, "ws")).href;
const remembered = sessionStorage.getItem("session") ?? undefined;

function Message({ role, content, error }) {
  return (
    <p style={{ whiteSpace: "pre-wrap" }}>
      <strong>{role}</strong> {content} {error && <em>{error}</em>}
    </p>
  );
}

function Chat() {
  const { messages, state, isStreaming, retryCount, error, sessionId, send, cancel, resume } = useChatStream({ url, sessionId: remembered });
  const [prompt, setPrompt] = useState("How does the window work?");
  useEffect(() => { if (sessionId) sessionStorage.setItem("session", sessionId); }, [sessionId]);

  const submit = (event) => {
    event.preventDefault();
    if (isStreaming) return cancel();
    send(prompt, { model: "demo" });
    setPrompt("");
  };

  return (
    <main>
      <p role="status">
        {state}{retryCount > 0 && `, try ${retryCount}`} {error} {state === "stopped" && <button onClick={resume}>Connect</button>}
      </p>
      {messages.map((message) => <Message key={message.id} {...message} />)}
      <form onSubmit={submit}>
        <input value={prompt} onChange={(event) => setPrompt(event.target.value)} size={50} aria-label="Question" />
        <button>{isStreaming ? "Stop" : "Send"}</button>
      </form>
    </main>
  );
}

createRoot(document.getElementById("root")).render(<StrictMode><Chat /></StrictMode>);

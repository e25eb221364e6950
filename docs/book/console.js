// Sessions: what is typed is set apart from what comes, and copying one takes the commands alone.
"use strict";

(function () {
    // More letters than a line has room for on the widest page.
    const LONG = 110;

    function part(name, text) {
        const span = document.createElement("span");
        span.className = name;
        span.textContent = text;
        return span;
    }

    function show(code) {
        const lines = code.textContent.replace(/\n$/, "").split("\n");
        const typed = [];
        let inCommand = false;
        code.textContent = "";
        code.classList.add("session");
        for (const line of lines) {
            const begins = line.startsWith("$ ");
            const goesOn = inCommand && (line.startsWith("> ") || line === ">");
            inCommand = begins || goesOn;
            if (inCommand) {
                typed.push(line.slice(2));
                code.append(part("prompt", line.slice(0, 2)), part("command", line.slice(2)), "\n");
            } else {
                code.append(part(line.length > LONG ? "output long" : "output", line), "\n");
            }
        }
        code.dataset.typed = typed.join("\n") + "\n";
    }

    document.querySelectorAll("code.language-console").forEach(show);

    // Before the handler of the book, which would take prompts and output along.
    document.addEventListener("click", function (event) {
        const button = event.target.closest(".clip-button");
        const pre = button && button.closest("pre");
        const code = pre && pre.querySelector("code.session");
        if (code && navigator.clipboard) {
            event.stopImmediatePropagation();
            navigator.clipboard.writeText(code.dataset.typed);
            button.firstChild.innerText = "Copied!";
            button.className = "clip-button tooltipped";
        }
    }, true);
})();

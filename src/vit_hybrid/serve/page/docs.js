// Shows the server's OpenAPI description. What comes from it is put in as text, never as HTML.

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function list(pairs) {
  const made = element("dl");
  for (const [term, text] of pairs) made.append(element("dt", term), element("dd", text));
  return made;
}

function code(value) {
  const made = element("pre", typeof value === "string" ? value : JSON.stringify(value, null, 2));
  made.tabIndex = 0; // it may scroll
  return made;
}

function operation(method, path, said) {
  const section = element("section", "", element("h2", `${method.toUpperCase()} ${path}`));
  const summary = element("p", said.summary);
  summary.className = "summary";
  section.append(summary);
  if (said.description) section.append(element("p", said.description));
  if (said.parameters) {
    section.append(element("h3", "Parameters"));
    section.append(list(said.parameters.map((one) => [one.name, one.description || one.schema?.description || ""])));
  }
  for (const [type, body] of Object.entries(said.requestBody?.content ?? {})) {
    section.append(element("h3", `Body: ${type}`));
    section.append(code(body.example ?? (body.schema?.format === "binary" ? "the picture's file" : body.schema)));
  }
  section.append(element("h3", "Answers"));
  section.append(list(Object.entries(said.responses).map(([status, one]) => [status, one.description])));
  for (const one of Object.values(said.responses)) {
    for (const content of Object.values(one.content ?? {})) if (content.example) section.append(code(content.example));
  }
  return section;
}

async function show() {
  const main = document.getElementById("operations");
  try {
    const description = await (await fetch("openapi.json")).json();
    const sections = [];
    for (const [path, methods] of Object.entries(description.paths)) {
      for (const [method, said] of Object.entries(methods)) sections.push(operation(method, path, said));
    }
    main.replaceChildren(...sections);
  } catch {
    main.replaceChildren(element("p", "The description could not be read."));
  }
  main.removeAttribute("aria-busy");
}

show();

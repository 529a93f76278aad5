// Reads asyncapi.yaml and openapi.yaml, and makes a validator of each schema in them.
import { readFileSync, readdirSync } from "node:fs";
import Ajv from "ajv";
import { parse } from "yaml";

const root = new URL("../../", import.meta.url);
const read = (path) => readFileSync(new URL(path, root), "utf8");

export const asyncapi = parse(read("asyncapi.yaml"));
export const openapi = parse(read("openapi.yaml"));
export const forms = JSON.parse(read("tests/old-clients/forms.json"));

/** What the API of hooks really answers: hooks/tests/api writes it down. */
export const answers = JSON.parse(read("hooks/tests/api/answers.json"));

/** The conversations that clients are tested with, by name. */
export const conversations = new Map(
  readdirSync(new URL("clients/conformance/cases/", root)).map((file) => [
    file.replace(/\.json$/, ""),
    JSON.parse(read(`clients/conformance/cases/${file}`)).steps,
  ]),
);

/** The golden files, by FOLDER/NAME. */
export const golden = new Map(
  ["client", "server", "bus"].flatMap((folder) =>
    readdirSync(new URL(`crates/protocol/golden/${folder}/`, root)).map((file) => [
      `${folder}/${file.replace(/\.json$/, "")}`,
      JSON.parse(read(`crates/protocol/golden/${folder}/${file}`)),
    ]),
  ),
);

const ajv = new Ajv({ strict: true, strictTypes: false, strictRequired: false, allErrors: true });
ajv.addKeyword("components");
for (const [name, document] of Object.entries({ asyncapi, openapi })) {
  ajv.addSchema({ $id: `${name}.yaml`, components: { schemas: document.components.schemas } }, name, false, false);
}

/** Says what is wrong with a value; nothing where it is what the schema of this name asks for. */
export function faults(name, value, document = "asyncapi") {
  const validate = ajv.getSchema(`${document}.yaml#/components/schemas/${name}`);
  return validate(value) ? "" : ajv.errorsText(validate.errors);
}

/** The name of a message's schema. */
export const schemaOf = (message) => message.payload.$ref?.split("/").at(-1);

/** The messages that an operation may take or send, with those it may answer. */
export function messagesOf(action, channel = "default") {
  const wanted = Object.values(asyncapi.operations).filter((operation) => operation.channel.$ref === `#/channels/${channel}`);
  const refs = wanted.flatMap((operation) => [
    ...(operation.action === action ? (operation.messages ?? []) : []),
    ...(action === "send" ? (operation.reply?.messages ?? []) : []),
  ]);
  return [...new Set(refs.map(({ $ref }) => asyncapi.components.messages[$ref.split("/").at(-1)]))];
}

/** Whether some message of this direction is what came. */
export const isMessage = (action, value) =>
  messagesOf(action).some((message) => faults(schemaOf(message), value) === "");

/** Every $ref below a value. */
export function refs(value) {
  if (value === null || typeof value !== "object") return [];
  const own = typeof value.$ref === "string" ? [value.$ref] : [];
  return [...own, ...Object.values(value).flatMap(refs)];
}

/** Members of a value that a schema of openapi.yaml does not have, however deep. */
export function undocumented(schema, value, path = "") {
  if (value === null || typeof value !== "object") return [];
  const parts = [];
  const collect = (part) => {
    if (part.$ref) return collect(follow(openapi, part.$ref));
    parts.push(part);
    for (const inner of [...(part.allOf ?? []), ...(part.oneOf ?? [])]) collect(inner);
  };
  collect(schema);
  if (parts.every((part) => Object.keys(part).length === 0)) return [];
  if (Array.isArray(value)) {
    const items = parts.find((part) => part.items)?.items ?? {};
    return value.flatMap((one, index) => undocumented(items, one, `${path}[${index}]`));
  }
  return Object.entries(value).flatMap(([name, inner]) => {
    const known = parts.map((part) => part.properties?.[name] ?? part.additionalProperties).find((part) => part);
    return known ? undocumented(known, inner, `${path}.${name}`) : [`${path}.${name}`];
  });
}

/** What a reference of the same document points to. */
export const follow = (document, ref) =>
  ref
    .replace(/^#\//, "")
    .split("/")
    .reduce((at, part) => at?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], document);

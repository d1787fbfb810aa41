// A client of the TypeScript SDK with its default limit of 60 s a call, over stdio.
// node typescript_client.mjs NODE_MODULES COMMAND STUDY|new ARGUMENT...   prints one JSON line.
import { pathToFileURL } from "node:url";

const [modules, command, study, ...args] = process.argv.slice(2);
const sdk = (path) => import(pathToFileURL(`${modules}/@modelcontextprotocol/sdk/dist/esm/${path}`).href);
const { Client } = await sdk("client/index.js");
const { StdioClientTransport } = await sdk("client/stdio.js");

const client = new Client({ name: "typescript", version: "1" });
await client.connect(new StdioClientTransport({ command, args, env: process.env }));
const call = async (name, given) => {
  const answer = await client.callTool({ name, arguments: given });
  if (answer.isError) throw new Error(answer.content[0].text);
  return answer.structuredContent;
};

if (study === "new") {
  const opened = await call("start_study", { dataset: "demo", space: { max_epochs: 2 } });
  const trial = await call("run_trial", { study_id: opened.study_id });
  const run = await call("run_policy", { study_id: opened.study_id, policy: "random", max_trials: 1, finish: true });
  console.log(JSON.stringify({ study_id: opened.study_id, trial: trial.status, policy: run.policy.status }));
} else {
  let found = await call("get_study", { study_id: study, wait_seconds: 45 });
  while (found.policy?.status === "running") found = await call("get_study", { study_id: study, wait_seconds: 45 });
  console.log(JSON.stringify(found));
}
await client.close();

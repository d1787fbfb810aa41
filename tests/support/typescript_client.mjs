// A client of the TypeScript SDK with its default limit of 60 s a call, over stdio.
// node typescript_client.mjs NODE_MODULES COMMAND STUDY|new|three|three-nulls ARGUMENT...   prints one JSON line.
// three plays a study of three trials; three-nulls sends null for every argument that it does not set.
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

if (study.startsWith("three")) {
  const { tools } = await client.listTools();
  const names = Object.fromEntries(tools.map((tool) => [tool.name, Object.keys(tool.inputSchema.properties ?? {})]));
  const nulls = (name) => (study === "three" ? {} : Object.fromEntries(names[name].map((argument) => [argument, null])));
  const play = (name, given) => call(name, { ...nulls(name), ...given });
  const { study_id } = await play("start_study", { dataset: "demo", space: { max_epochs: 2 }, max_trials: 3, confirm_seeds: 0 });
  const trials = [];
  for (const changes of [undefined, { dropout: 0.1 }, { num_blocks: 1 }]) {
    let trial = await play("run_trial", { study_id, ...(changes ? { changes } : {}) });
    while (["queued", "running"].includes(trial.status)) trial = await play("get_trial", { trial_id: trial.trial_id, wait_seconds: 45 });
    trials.push(trial.status);
    await play("write_heuristic", { study_id, kind: "reflection", text: "So it came.", evidence: [trial.trial_id] });
  }
  await play("read_memory", { study_id });
  let ending = await play("finish_study", { study_id });
  while (ending.status === "running") ending = await play("finish_study", { study_id });
  console.log(JSON.stringify({ trials, status: ending.status, reveal: ending.test_reveal }));
} else if (study === "new") {
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

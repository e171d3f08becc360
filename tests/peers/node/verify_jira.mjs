// Works with the lab's Jira through jira.js, a client of it by others. Reads the API token from one line of input.
//
//   node verify_jira.mjs URL CONTROL MAIL
import assert from "node:assert/strict";
import { createInterface } from "node:readline/promises";
import { ServiceDeskClient, Version3Client } from "jira.js";

const [host, control, email] = process.argv.slice(2);
const input = createInterface({ input: process.stdin });
const apiToken = (await input[Symbol.asyncIterator]().next()).value.trim();
input.close();

const authentication = { basic: { email, apiToken } };
const jira = new Version3Client({ host, authentication });
const desk = new ServiceDeskClient({ host, authentication });

async function act(what) {
  const answer = await fetch(`${control}/tickets/jira`, { method: "POST", body: JSON.stringify(what) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer.json();
}

const create = (fields = {}) => act({ do: "create", fields: { summary: "A change", ...fields } });
const status = async (key) => (await jira.issues.getIssue({ issueIdOrKey: key })).fields.status.name;

const checks = {
  async "creates and reads"() {
    const fields = { summary: "Made by jira.js", project: { key: "CHG" }, issuetype: { name: "[System] Change" } };
    const made = await jira.issues.createIssue({ fields });
    const read = await jira.issues.getIssue({ issueIdOrKey: made.key });
    assert.equal(read.fields.summary, "Made by jira.js");
    assert.equal(read.fields.status.name, "Planning");
  },
  async "leads through the workflow"() {
    const { key } = await create();
    const { transitions } = await jira.issues.getTransitions({ issueIdOrKey: key });
    const asked = transitions.find((transition) => transition.to.name === "Authorize");
    await jira.issues.doTransition({ issueIdOrKey: key, transition: { id: asked.id } });
    const before = await desk.request.getApprovals({ issueIdOrKey: key });
    assert.equal(before.values[0].finalDecision, "pending");
    await act({ do: "approve", ticket: key });
    const after = await desk.request.getApprovals({ issueIdOrKey: key });
    assert.equal(after.values[0].finalDecision, "approved");
    assert.equal(await status(key), "Awaiting implementation");
  },
  async "is told that a transition is not possible"() {
    const { key } = await create();
    await assert.rejects(jira.issues.doTransition({ issueIdOrKey: key, transition: { id: "31" } }));
    assert.equal(await status(key), "Planning");
  },
  async "comments internally"() {
    const { key } = await create();
    await desk.request.createRequestComment({ issueIdOrKey: key, body: "Looked at it", public: false });
    const { comments } = await jira.issueComments.getComments({ issueIdOrKey: key });
    assert.deepEqual(comments.map((comment) => [comment.body, comment.jsdPublic]), [["Looked at it", false]]);
  },
  async "attaches"() {
    const { key } = await create();
    const file = Buffer.from('{"steps": []}');
    const attachment = { filename: "plan.json", file };
    const [made] = await jira.issueAttachments.addAttachment({ issueIdOrKey: key, attachment });
    assert.equal(made.filename, "plan.json");
    assert.equal(made.size, file.length);
  },
  async "links"() {
    const { key } = await create();
    const link = { issueIdOrKey: key, globalId: "rekey=1", object: { url: "https://rekey.example", title: "Renewal" } };
    await jira.issueRemoteLinks.createOrUpdateRemoteIssueLink(link);
    await jira.issueRemoteLinks.createOrUpdateRemoteIssueLink(link);
    assert.equal((await jira.issueRemoteLinks.getRemoteIssueLinks({ issueIdOrKey: key })).length, 1);
  },
  async "searches page by page"() {
    const keys = [];
    for (let count = 0; count < 3; count++) keys.push((await create({ labels: ["paged"] })).key);
    const jql = "project = CHG AND labels = paged ORDER BY created ASC";
    const found = [];
    let nextPageToken;
    do {
      const search = { jql, fields: ["summary"], maxResults: 2, nextPageToken };
      const page = await jira.issueSearch.searchForIssuesUsingJqlEnhancedSearch(search);
      found.push(...page.issues.map((issue) => issue.key));
      nextPageToken = page.nextPageToken;
    } while (nextPageToken);
    assert.deepEqual(found, keys);
  },
  async "is told that it may not come in"() {
    const wrong = { basic: { email, apiToken: "wrong" } };
    const { key } = await create();
    await assert.rejects(new Version3Client({ host, authentication: wrong }).issues.getIssue({ issueIdOrKey: key }));
  },
};

let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok    ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name}\n${error.stack ?? error}`);
  }
}
console.log(`${Object.keys(checks).length - failed} of ${Object.keys(checks).length} checks passed`);
process.exit(failed);

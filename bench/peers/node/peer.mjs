// graphile-worker and pg-boss as sides of bench/run: peer.mjs graphile|pg-boss drain|start|idle DATABASE_URL COUNT. Prints one line of JSON.

import { readFileSync } from "node:fs";
import { setTimeout as pause } from "node:timers/promises";

// Nothing takes longer, unless it has failed.
const PATIENCE_MS = 120_000;
const IDLE_MS = 10_000;
const CHUNK = 5_000;

const [peer, what, url, countText] = process.argv.slice(2);
const count = Number(countText);

const side = await import(`./${peer}.mjs`);
const figures = { drain, start, idle };
console.log(JSON.stringify(await figures[what]()));
process.exit(0);

// Jobs that were there before the worker began; over when the database says that all of them are done.
async function drain() {
    const queue = await side.open(url);
    for (let from = 0; from < count; from += CHUNK) {
        await queue.fill(Array.from({ length: Math.min(CHUNK, count - from) }, (_, n) => from + n));
    }
    let handled = 0;
    const begun = performance.now();
    await queue.work("drain", () => { handled += 1; });
    let done = 0;
    while (handled < count || (done = await queue.done(count)) < count) {
        if (performance.now() - begun > PATIENCE_MS) throw new Error(`only ${handled} of ${count} have run`);
        await pause(5);
    }
    return { done, seconds: (performance.now() - begun) / 1000, peak_kib: memory("VmHWM:") };
}

// One job at a time: how long from the return of the call that adds it, and from the call itself, to the start of its handler.
async function start() {
    const queue = await side.open(url);
    let began;
    let signal;
    await queue.work("start", () => { began = performance.now(); signal(); });
    await pause(1_000);
    const ms = [];
    for (let number = 0; number < count; number += 1) {
        const started = new Promise((resolve) => { signal = resolve; });
        const asked = performance.now();
        await queue.add(number);
        const added = performance.now();
        await started;
        ms.push([Math.max(began - added, 0), began - asked]);
        await pause(10 + 10 * Math.random());
    }
    return { ms };
}

async function idle() {
    const queue = await side.open(url);
    await queue.work("start", () => {});
    await pause(IDLE_MS);
    return { resident_kib: memory("VmRSS:") };
}

function memory(name) {
    const line = readFileSync("/proc/self/status", "ascii").split("\n").find((text) => text.startsWith(name));
    return Number(line.split(/\s+/)[1]);
}

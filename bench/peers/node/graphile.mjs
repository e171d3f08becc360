// graphile-worker as its performance page recommends: jobs fetched and completed in batches. Its workers are woken by NOTIFY by themselves.

import { Logger, makeWorkerUtils, run } from "graphile-worker";

const logger = new Logger(() => () => {});

export async function open(url) {
    const utils = await makeWorkerUtils({ connectionString: url, logger });
    await utils.migrate();
    return {
        fill: (numbers) => utils.addJobs(numbers.map((number) => ({ identifier: "bench", payload: { number } }))),
        add: (number) => utils.addJob("bench", { number }),
        // Completed jobs are deleted.
        done: async (all) => {
            const left = "SELECT count(*)::int AS left FROM graphile_worker._private_jobs";
            const { rows } = await utils.withPgClient((client) => client.query(left));
            return all - rows[0].left;
        },
        work: (what, handler) => {
            const batches = what === "drain" ? { localQueue: { size: 500 }, completeJobBatchDelay: 0 } : {};
            const preset = { worker: { connectionString: url, concurrentJobs: 24, maxPoolSize: 26, ...batches } };
            return run({ preset, logger, noHandleSignals: true, taskList: { bench: async () => handler() } });
        },
    };
}

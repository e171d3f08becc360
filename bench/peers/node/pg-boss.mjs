// pg-boss with its largest levers: batches, several workers, no pause while batches come back full; NOTIFY where a start is waited for.

import { PgBoss } from "pg-boss";

export async function open(url) {
    const boss = new PgBoss({ connectionString: url, useListenNotify: true, schedule: false });
    boss.on("error", (error) => console.error(error));
    await boss.start();
    await boss.createQueue("bench", { notify: true });
    return {
        fill: (numbers) => boss.insert("bench", numbers.map((number) => ({ data: { number } }))),
        add: (number) => boss.send("bench", { number }),
        done: async () => {
            const completed = "SELECT count(*)::int AS done FROM pgboss.job WHERE name = 'bench' AND state = 'completed'";
            const { rows } = await boss.getDb().executeSql(completed);
            return rows[0].done;
        },
        work: (what, handler) => {
            const batches = { batchSize: 250, localConcurrency: 4, burstWhenBatchFull: true, pollingIntervalSeconds: 0.5 };
            const each = async (jobs) => { jobs.forEach(() => handler()); };
            return boss.work("bench", what === "drain" ? batches : {}, each);
        },
    };
}

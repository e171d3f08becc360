"""DBOS as a side of bench/run: dbos_side.py drain|idle DATABASE_URL COUNT. Prints one line of JSON.

Workflows of three no-op steps, 32 threads, each workflow started directly: no queue is in the way.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dbos import DBOS

THREADS = 32
STEPS = 3
IDLE = 10


@DBOS.step()
def step(number: int) -> int:
    return number


@DBOS.workflow()
def workflow(number: int) -> int:
    for _ in range(STEPS):
        number = step(number)
    return number


def memory(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


def drain(count: int) -> dict:
    workflows = count // STEPS
    with ThreadPoolExecutor(THREADS) as threads:
        begun = time.monotonic()
        answers = list(threads.map(workflow, range(workflows)))
        seconds = time.monotonic() - begun
    assert answers == list(range(workflows))
    ended = DBOS.list_workflows(status="SUCCESS", load_input=False, load_output=False)
    return {"done": len(ended) * STEPS, "seconds": seconds, "peak_kib": memory("VmHWM:")}


def idle() -> dict:
    time.sleep(IDLE)
    return {"resident_kib": memory("VmRSS:")}


def main() -> None:
    what, url, count = sys.argv[1:]
    DBOS(config={
        "name": "bench",
        "system_database_url": url,
        "run_admin_server": False,
        "log_level": "ERROR",
        "sys_db_pool_size": THREADS,
    })
    DBOS.launch()
    print(json.dumps(drain(int(count)) if what == "drain" else idle()), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    main()

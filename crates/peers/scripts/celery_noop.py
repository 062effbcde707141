"""Celery: `celery -A celery_noop worker`, or `celery_noop.py WAY FIRST COUNT [PER_SECOND]` to submit.

When what happened goes to a file that all processes of a run share: one line per event, `KIND ID NANOSECONDS` of
CLOCK_MONOTONIC.
"""

import multiprocessing
import os
import sys
import time

from celery import Celery
from celery.signals import task_success

SUBMITTERS = 4
url = os.environ["PEERS_URL"]
stamps = os.open(os.environ["PEERS_STAMPS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

app = Celery("noop", broker=url, backend=url)
app.conf.update(
    # At least once, like the others: without this a task is lost with the worker that took it.
    task_acks_late=True,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)


def stamp(kind, number):
    os.write(stamps, b"%c %d %d\n" % (kind, number, time.monotonic_ns()))


@app.task(name="noop")
def noop(number):
    stamp(b"S", number)


# Sent once the result, if it is kept, is in Redis.
@task_success.connect(sender=noop)
def succeeded(sender, **_):
    stamp(b"D", sender.request.args[0])


def submit(first, count, kept):
    with app.producer_pool.acquire(block=True) as producer:
        producer.connection.ensure_connection(max_retries=3)
        stamp(b"Q", first)
        for number in range(first, first + count):
            noop.apply_async((number,), producer=producer, ignore_result=not kept)


def submit_at(first, count, per_second):
    with app.producer_pool.acquire(block=True) as producer:
        producer.connection.ensure_connection(max_retries=3)
        begun = time.monotonic()
        for n in range(count):
            wait = begun + n / per_second - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            stamp(b"Q", first + n)
            noop.apply_async((first + n,), producer=producer, ignore_result=True)


def main():
    way, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if way == "rate":
        return submit_at(first, count, float(sys.argv[4]))
    shares = [count // SUBMITTERS + (n < count % SUBMITTERS) for n in range(SUBMITTERS)]
    begin = [first + sum(shares[:n]) for n in range(SUBMITTERS)]
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=submit, args=(start, share, way == "kept"))
        for start, share in zip(begin, shares)
        if share
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("a submitter failed")


if __name__ == "__main__":
    main()

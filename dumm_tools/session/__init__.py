"""A framed session: requests as lines of JSON, answered as lines of JSON, by one process.

`requests` reads them, `answers` writes; a job (`guest_job`, `child_job`) is a request under way,
and `loop` has many of them at a time.
"""

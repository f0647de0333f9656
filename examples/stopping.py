"""End answers early: leave, stop, limit the time, set a deadline. Each frees the GPU at once.

Run `make serve` in another terminal, then `.venv/bin/python examples/stopping.py`.
"""

from talkwire import Client, Timeout

STORY = "Tell me a long, long story of a ship that sails around the world and comes home at last."

with Client() as client:
    # Leaving the block cancels the call, whether by break, return, exception or Ctrl-C.
    with client.stream(STORY) as stream:
        for _ in stream:
            if len(stream.answer.text.split()) >= 3:
                break
    print("left:", stream.answer)

    # stop() lets the server end the answer properly: with a reason, usage and timing.
    with client.stream(STORY) as stream:
        print(next(stream))
        answer = stream.stop()
    print(f"{answer.finish_reason} after {answer.usage.completion_tokens} tokens:", answer)

    # So does a limit of time, which counts from the request's arrival.
    answer = client.chat(STORY, time_limit=1)
    print(f"{answer.finish_reason} after {answer.usage.completion_tokens} tokens:", answer)

    # At its deadline a call fails; what had come by then is in the exception.
    try:
        with client.stream(STORY, timeout=1) as stream:
            print(stream.wait().finish_reason)
    except Timeout as error:
        print("too late:", error.partial)

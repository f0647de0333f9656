"""From vLLM's outputs to the deltas of an answer. Knows no prompts."""

from collections.abc import Callable, Iterator, Sequence
from time import monotonic

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call, Delta
from talkwire_server.errors import CallError, EngineFailure, InvalidRequest, Violation
from talkwire_server.vllm_engine.constraints import held_field, held_text
from talkwire_server.vllm_engine.failures import invalid
from talkwire_server.vllm_engine.grammars.trials import TOO_SLOW
from talkwire_server.vllm_engine.job import Job
from talkwire_server.vllm_engine.vocabulary import Vocabulary

_FINISH = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "abort": pb.FINISH_REASON_ABORTED,
    "repetition": pb.FINISH_REASON_REPETITION,
}


_NARROWING = "logit_bias", "bad_words", "allowed_token_ids", "min_tokens"


class Deltas:
    """Makes the deltas of one call. One answer that is only text takes the short way."""

    def __init__(self, call: Call, job: Job, vocabulary: Vocabulary) -> None:
        self._call = call
        self._job = job
        self._vocabulary = vocabulary
        self._include = call.request.include
        plain = not (
            job.readings or job.continued or call.request.HasField("include") or call.request.n > 1
        )
        self.take: Callable[[RequestOutput], Sequence[Delta]] = self._text if plain else self._all
        """Makes what can be sent of an output: a delta for each of the n answers in it.

        What has nothing to say yet (half a character, what may be a stop word) waits.
        """
        self._first: Delta | None = call.first_delta()
        self._pending: dict[int, Delta] = {}
        self._given = self._tokens = len(job.continued.token_ids) if job.continued else 0

    @property
    def used(self) -> int:
        """Tokens of prompt and answers so far; 0 as long as none of an answer was generated."""
        generated = self._tokens > self._given
        return len(self._job.prompt_token_ids) + self._tokens if generated else 0

    def _text(self, output: RequestOutput) -> Sequence[Delta]:
        (part,) = output.outputs
        text = part.text
        self._tokens += len(part.token_ids)
        if not text and not output.finished:
            return ()
        if delta := self._first:
            self._first, self._call.begun = None, monotonic()
        else:
            delta = Delta()
        delta.text = text
        if output.finished:
            self._finish(delta, part)
            self._close(delta, output)
        return (delta,)

    def _all(self, output: RequestOutput) -> Sequence[Delta]:
        made = []
        if self._job.continued:
            self._job.continued.rewrite(output)
        if self._first:
            self._head(self._first, output)
        for part in output.outputs:
            delta = self._pending.pop(part.index, None) or Delta(index=part.index)
            self._read(delta, part)
            self._tokens += len(part.token_ids)
            if part.finish_reason is not None:
                self._finish(delta, part)
            elif not (delta.text or delta.reasoning or delta.tool_calls or delta.token_ids):
                self._pending[part.index] = delta
                continue
            made.append(delta)
        if made and self._first:
            made[0].MergeFrom(self._first)
            self._first, self._call.begun = None, monotonic()
        if output.finished:
            self._close(made[-1], output)
        return made

    def over(self, finish_reason: str, stop_reason: str | int | None, text: str) -> Delta:
        """Make the only delta of an answer of which nothing is left to generate."""
        part = CompletionOutput(
            0, text, [], None, None, finish_reason=finish_reason, stop_reason=stop_reason
        )
        ids = self._job.prompt_token_ids
        output = RequestOutput("", None, ids, None, [part], finished=True)
        delta = self._first or Delta()
        self._head(delta, output)
        self._read(delta, part)
        self._finish(delta, part)
        self._close(delta, output)
        return delta

    def _head(self, delta: Delta, output: RequestOutput) -> None:
        if self._include.prompt_token_ids and not delta.prompt_token_ids:
            delta.prompt_token_ids.extend(self._job.prompt_token_ids)
        if self._include.HasField("prompt_logprobs") and output.prompt_logprobs:
            ids, most = self._job.prompt_token_ids, self._include.prompt_logprobs
            delta.prompt_logprobs.extend(self._logprobs(ids, output.prompt_logprobs, most))

    def _read(self, delta: Delta, part: CompletionOutput) -> None:
        if self._job.readings:
            finished = part.finish_reason is not None
            reading = self._job.readings[part.index]
            reading.read(delta, part.text, part.token_ids, finished=finished)
        else:
            delta.text += part.text
        if self._include.token_ids:
            delta.token_ids.extend(part.token_ids)
        if self._include.HasField("logprobs") and part.logprobs:
            most = self._include.logprobs
            delta.logprobs.extend(self._logprobs(part.token_ids, part.logprobs, most))

    def _logprobs(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[dict[int, Logprob] | None],
        most: int,
    ) -> Iterator[pb.TokenLogprob]:
        for token_id, ranked in zip(token_ids, logprobs, strict=False):
            yield self._vocabulary.logprob(token_id, ranked or {}, most)

    def _finish(self, delta: Delta, part: CompletionOutput) -> None:
        if part.finish_reason not in _FINISH:
            raise self._failure()
        reason = _FINISH[part.finish_reason]
        if reason == pb.FINISH_REASON_ABORTED and self._call.ending:
            reason = self._call.ending
        if reason == pb.FINISH_REASON_STOP and self._called(part.index):
            reason = pb.FINISH_REASON_TOOL_CALLS
        delta.finish_reason = reason
        match part.stop_reason:
            case str(text):
                delta.stop_match.text = text
            case int(token):
                delta.stop_match.token_id = token

    def _failure(self) -> CallError:
        if self._job.held and not self._job.held.alive:
            return invalid(held_field(self._call.request), TOO_SLOW)
        kind = self._call.request.output_format.WhichOneof("format")
        if kind and not self._tokens:  # vLLM's engine keeps the reason in its log
            return invalid(f"output_format.{kind}", "the engine cannot compile it")
        if not self._job.sampling.structured_outputs:
            return EngineFailure()
        if faults := self._narrowing():
            return InvalidRequest(faults)
        if lacking := self._vocabulary.lacks(held_text(self._call.request)):
            field = held_field(self._call.request)
            return invalid(field, f"no tokens of this model say {lacking[:20]!a}")
        return EngineFailure()

    def _narrowing(self) -> Sequence[Violation]:
        """Name what of the sampling can have left no token that the answer's form allows."""
        text = f"leaves no token that {held_field(self._call.request)} allows"
        given = {field.name for field, _ in self._call.request.sampling.ListFields()}
        return [Violation(f"sampling.{name}", text) for name in _NARROWING if name in given]

    def _called(self, index: int) -> bool:
        return bool(self._job.readings) and self._job.readings[index].called

    def _close(self, delta: Delta, output: RequestOutput) -> None:
        delta.usage.prompt_tokens = len(self._job.prompt_token_ids)
        delta.usage.cached_tokens = output.num_cached_tokens or 0
        delta.usage.completion_tokens = self._tokens
        delta.usage.media_tokens = self._job.media_tokens
        delta.usage.reasoning_tokens = sum(r.reasoning_tokens for r in self._job.readings)
        times = output.metrics
        queue = times.scheduled_ts - times.queued_ts if times else 0.0
        first = times.first_token_latency if times else 0.0
        self._call.close(delta, queue, first)

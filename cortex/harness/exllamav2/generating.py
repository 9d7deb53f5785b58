"""The library's generator and its jobs, with what they get wrong put right.

Pages of the KV cache outlive their jobs, and a later prompt takes over what it finds in them. Two
kinds of pages say there what they do not hold, and the answer to whoever believes it is another one.
Guessing from n-grams must neither hold up nor end the jobs of others.
"""

from typing import Any

from cortex.harness.exllamav2.runtime import Library


def generator_of(library: Library) -> Any:  # noqa: ANN401 - the library is untyped
    """The class of generators."""

    trie = library.generator.dynamic.NGramTrie

    class Generator(library.generator.ExLlamaV2DynamicGenerator):  # type: ignore[name-defined, misc]
        """Guesses from n-grams by itself. The library learns a prompt in one go, for which those who
        write would wait, seconds for a long one; and it raises where there are fewer tokens than it
        looks back at."""

        def iterate_ngram_gen(self, results: Any) -> Any:  # noqa: ANN401
            for job in self.active_jobs:
                self._learn(job)
            guesses = [self._guess(job) for job in self.active_jobs if job.is_prefill_done()]
            return library.torch.tensor(guesses, dtype=library.torch.long) if guesses else None

        def _learn(self, job: Any) -> None:  # noqa: ANN401
            """What follows what, of as many more tokens as a prompt's chunk has."""
            tokens, begin = job.sequences[0].sequence_ids, job.ngram_position
            end = min(begin + self.max_chunk_size, len(tokens) - self.max_ngram + 1)
            if end <= begin:
                return
            known = tokens.torch_slice(begin, end + self.max_ngram - 1)[0].tolist()
            for at in range(end - begin):
                _count(job.ngrams, known[at : at + self.max_ngram], trie)
            job.ngram_position = end

        def _guess(self, job: Any) -> list[int]:  # noqa: ANN401
            """What came most often after the longest run that is known; else the last token again."""
            back, tokens = self.max_ngram - 1, job.sequences[0].sequence_ids
            said = tokens.torch_slice(max(0, len(tokens) - back), None)[0].tolist()
            for _ in range(self.num_draft_tokens):
                runs = (_after(job.ngrams, said[at:]) for at in range(max(0, len(said) - back), len(said)))
                said.append(next((token for token in runs if token is not None), said[-1]))
            guessed: list[int] = said[-self.num_draft_tokens :]
            return guessed

    return Generator


def job_of(library: Library) -> Any:  # noqa: ANN401 - as above
    """The class of jobs."""

    class Job(library.generator.ExLlamaV2DynamicJob):  # type: ignore[name-defined, misc]
        """Leaves no page that passes for a prompt's first one, which is known by having none before it,
        and is none."""

        def deallocate_pages(self) -> None:
            paged = self.generator is not None and self.generator.paged
            held = [
                (place, page, page.can_revert)
                for sequence in (self.sequences if paged else ())
                for place, page in enumerate(sequence.allocated_pages or ())
            ]
            super().deallocate_pages()
            for place, page, untouched in held:
                # An untouched page is what it was before the job; where another one became the same
                # meanwhile, it is cut off from those before it. On others may lie what was guessed
                # ahead of an answer that ended short of them.
                strayed = page.phash != page.phash_revert if untouched else place and page.prev_hash is None
                if strayed and not page.ref_count:
                    page.kv_position = 0

    return Job


def _count(node: Any, run: list[int], trie: Any) -> None:  # noqa: ANN401 - as above
    """`run` came once more."""
    for token in run:
        child = node.children.get(token)
        if child is None:
            child = node.children[token] = trie(token)
        child.count += 1
        if node.winningest_child is None or child.count > node.winningest_child.count:
            node.winningest_child = child
        node = child


def _after(node: Any, run: list[int]) -> int | None:  # noqa: ANN401 - as above
    """The token that came most often after `run`."""
    for token in run:
        node = node.children.get(token)
        if node is None:
            return None
    next_: int = node.winningest_child.token
    return next_

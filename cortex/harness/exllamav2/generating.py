"""The library's generator and its jobs, with what they get wrong put right.

Pages of the KV cache outlive their jobs, and a later prompt takes over what it finds in them. Two
kinds of pages say there what they do not hold, and the answer to whoever believes it is another one.
A guess from n-grams raises where a prompt is short, which would end everybody's jobs.
"""

from typing import Any

from cortex.harness.exllamav2.guards import DRAFTED
from cortex.harness.exllamav2.runtime import Library


def generator_of(library: Library) -> Any:  # noqa: ANN401 - the library is untyped
    """The class of generators."""

    class Generator(library.generator.ExLlamaV2DynamicGenerator):  # type: ignore[name-defined, misc]
        """Guesses from n-grams for short prompts too: the library's own guess looks a whole n-gram back
        and raises where there are fewer tokens."""

        def iterate_ngram_gen(self, results: Any) -> Any:  # noqa: ANN401
            known = [job.sequences[0].sequence_ids for job in self.active_jobs if job.is_prefill_done()]
            if all(len(tokens) >= self.max_ngram - 1 for tokens in known):
                return super().iterate_ngram_gen(results)
            return library.torch.stack([tokens.torch()[0, -1:].expand(DRAFTED) for tokens in known])

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

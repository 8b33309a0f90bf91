"""A program with vLLM in it: `engine.py JSON` prints the tokens that it generates after the start and after each reload."""

import json
import sys

from vllm import LLM, SamplingParams


def tokens(llm: LLM) -> list[int]:
    greedy = SamplingParams(temperature=0, max_tokens=8, detokenize=False, ignore_eos=True)
    (request,) = llm.generate([{"prompt_token_ids": [1, 2, 3, 4]}], greedy, use_tqdm=False)
    return list(request.outputs[0].token_ids)


def main() -> None:
    asked = json.loads(sys.argv[1])
    settings = {
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "max_model_len": 64,
        "dtype": "bfloat16",
        # What a reload leaves of it belongs to the weights before.
        "enable_prefix_caching": False,
    }
    llm = LLM(**settings, **asked["llm"])
    said = [tokens(llm)]
    for arguments in asked["reloads"]:
        llm.collective_rpc("reload_weights", kwargs=arguments)
        said.append(tokens(llm))
    print("TOKENS", json.dumps(said), flush=True)


# vLLM's processes import this file.
if __name__ == "__main__":
    main()

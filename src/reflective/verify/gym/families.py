"""Every family of reasoning_gym and who grades it: a reviewed table. A family that is not in it is refused by name.

Each scorer of the package was read. It is used where it evaluates nothing (no eval, no exec, no sympy.parse_expr, of
the answer or of the problem) and gives a full score to right answers only. Elsewhere a grader of ours takes its place,
and `why` says what is wrong with the package's; no `why` means that its scorer only compares texts or numbers, which
ours do with less regard to spelling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

REVIEWED_VERSIONS = frozenset({"0.1.25"})
UNREVIEWED = (
    "the scorers of reasoning_gym {version} have not been read yet (known: {known}). Install one of these versions"
)


@dataclass(frozen=True, slots=True)
class Family:
    """`grader` is a kind of ours, "package", or one of `reflective.verify.gym`; `refused` says why there is none.

    An answer in which `forbidden` is found is wrong before the scorer sees it.
    """

    grader: str = ""
    why: str = ""
    refused: str = ""
    forbidden: re.Pattern[str] | None = None


_PACKAGE = """
ab arc_agi calendar_arithmetic codeio cryptarithm decimal_arithmetic fraction_simplification futoshiki
graph_color group_anagrams jugs knight_swap number_format palindrome_generation
palindrome_partitioning pool_matrix power_function propositional_logic quantum_lock rearc shortest_path survo
time_intervals tower_of_hanoi word_ladder
"""
_MATH = """
aiw basic_arithmetic binary_alternation chain_sum count_bits count_primes decimal_chain_sum gcd largest_island lcm
leg_counting letter_counting number_sequence products rectangle_count rotten_oranges self_reference simple_equations
simple_geometry
"""
_EXACT = """
acre arc_1d base_conversion bf caesar_cipher circuit_logic color_cube_rotation course_schedule dice emoji_mystery
family_relationships isomorphic_strings mahjong_puzzle manipulate_matrix maze modulo_grid needle_haystack path_star
ransom_note rotate_matrix sentence_reordering spell_backward string_manipulation string_splitting string_synthesis
syllogism tsumego word_sequence_reversal zebra_puzzles
"""

_EVAL = "hands the answer to eval()"
_PARSE = "hands the answer to sympy.parse_expr, which evaluates it"

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        **{name: Family("package") for name in _PACKAGE.split()},
        **{name: Family("math") for name in _MATH.split()},
        **{name: Family("exact") for name in _EXACT.split()},
        "list_functions": Family("list"),
        "number_filtering": Family("list"),
        "prime_factorization": Family("factors"),
        # evaluated by the package
        "binary_matrix": Family("exact", _EVAL),
        "bitwise_arithmetic": Family("integer", "hands the problem to eval()"),
        "countdown": Family("expression", _PARSE),
        "intermediate_integration": Family("integral", _PARSE),
        "n_queens": Family("one of", _EVAL),
        "polynomial_multiplication": Family("expanded", _PARSE),
        "puzzle24": Family("expression", _PARSE + "; and any four numbers will do"),
        "simple_integration": Family("integral", _PARSE),
        "spiral_matrix": Family("exact", _EVAL),
        "string_insertion": Family("exact", _EVAL),
        # full scores for wrong answers
        "coin_flip": Family("probability", '"0" begins like 0.109 and has the full score'),
        "complex_arithmetic": Family("math", '"nan" has the full score'),
        "figlet_font": Family("exact", "ten letters in place are a full score, whatever else is there"),
        "game_of_life": Family("list", "rows and cells beyond the board are ignored"),
        "game_of_life_halting": Family("exact", "every answer that is not empty counts as True"),
        "gsm_symbolic": Family("math", "the first number counts, whatever follows"),
        "letter_jumble": Family("exact", "words behind the right ones are ignored"),
        "number_sorting": Family("list", "every number may be off by 1"),
        "polynomial_equations": Family("math", "what is no number is ignored"),
        "word_sorting": Family("list", "words behind the right ones are ignored"),
        # right answers in another spelling have part of the score
        "mini_sudoku": Family("exact", "spaces cost part of the score"),
        "sudoku": Family("exact", "spaces cost part of the score"),
        # what the scorer would overlook is refused before it is asked
        "advanced_geometry": Family("package", forbidden=re.compile(r",.*,", re.DOTALL)),  # a second point
        "boxnet": Family("package", forbidden=re.compile(r"move\((?!box_)")),  # targets that are moved
        "kakurasu": Family("package", forbidden=re.compile(r"[^01\s]")),
        "knights_knaves": Family("package", forbidden=re.compile(r"\d")),
        "rubiks_cube": Family("package", forbidden=re.compile(r"\d{3,}")),  # it would write U999999999 out
        "rush_hour": Family("package", forbidden=re.compile(r"\d{3,}|[^A-Z0-9+\-\s,]")),  # and walk that far
        "sokoban": Family("package", forbidden=re.compile(r"[^UDLR\s]")),
        "composite": Family(refused="it has no problems of its own; it mixes others. Name those instead"),
    }
)

"""The shipped model; see MODEL_CARD.md. `EXAMPLES` are problems that it answers rightly."""

EXAMPLES = {
    "least common multiple": "Find the Least Common Multiple (LCM) of these numbers: 14, 20",
    "countdown": "Using all the numbers 5, 7, 12, create an expression that equals 47.\n"
    "You can only use each number once.\n\nFinal answer format instructions:\n"
    "1. Provide your solution as a arithmetic expression (no '=' sign).\n"
    "2. Do not include the target number in the expression.\n"
    "3. Use '*' for multiplication.\n4. Use '/' for division.\n5. Do not include any other text or formatting.",
    "24": "Make 24 using 12, 6, 12, 6. You can only use each number once. You can use the operators +, -, *, /.\n"
    "Final answer format instructions:\n1. Provide your final answer as a arithmetic expression (no '=' sign).\n"
    "2. Do not include the target number in the expression.\n3. Use '*' for multiplication.\n"
    "4. Use '/' for division.",
    "multiplication": "Solve the following multiplication: 12 * 17. Give only the result as your final answer.",
    "word problem": "Sunnyside High is holding graduation in their Sports Arena this year which has space for 3100 "
    "people. After accounting for 900 seats for graduates and 400 seats for faculty attending, how many tickets would "
    "each graduate receive to give to their friends and family if the tickets are split equally? Give the result as "
    "your final answer. Do not include units.",
    "chain of sums": "State the final answer to the following arithmetic problem: 14 + 22 =",
    "equation": "Determine the value of n that satisfies: 9*n + 10 = 73",
    "prime factors": "Find the prime factorization of 187. Write the factors separated by × (Example: for 12 the "
    "answer would be: 2 × 2 × 3)",
    "counting legs": "Your task is to count how many legs there are in total when given a list of animals.\n\nNow, how "
    "many legs are there in total if you have 3 jellyfishs, 3 wasps, 9 elephants?",
}

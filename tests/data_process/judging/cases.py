r"""Rows of the judge's tables beyond plain letters and numbers: (text, what is extracted or None, right?).

A row is a way in which a model states an answer, or seems to. `None` is an abstention. Add rows; never loosen one.
"""

from __future__ import annotations

from data_process.schema import Problem

N, R, W = None, True, False  # extracted nothing; right; wrong


def of(kind: str, answer: str, question: str = "How many are there?", **fields) -> Problem:
    return Problem("p", question, answer, answer_type=kind, **fields)


def among(answer: str, *choices: str, question: str = "Which one is it?") -> Problem:
    return Problem("p", question, answer, choices)


INTEGER = of("integer", "7")
FLOAT = of("float", "1.26", precision=2)
TENTH = of("float", "3", precision=1)
YEARS = of("integer", "20", "What is the age gap? (Unit: years)", unit="years")
CM = of("number", "200", unit="cm")
CHARTQA = of("number", "10", tolerance=0.05)
YEAR = of("number", "2011", "In which year?", tolerance=0.05)
PAIR = of("list", "[2014, 2016]")
YES = of("text", "Yes")
CAR = of("text", "the red car", "What is it?")
ROOT = of("expression", "2√{3}", "How long is AB?")
TEN = of("expression", "10√{2}", "How long is AB?")
PI = of("expression", "12π", "What is the area?")
FIFTHS = of("expression", "\\frac{12}{5}", "What is DE?")
POLY = of("expression", "x^2-1", "What is the product?")

# (problem, text, extracted, right)
TYPES = [
    # integer: a value that is not whole is an answer, and wrong
    (INTEGER, "Answer: 7", "7", R),
    (INTEGER, "Answer: 7.0", "7", R),
    (INTEGER, "Answer: 07", "7", R),
    (INTEGER, "Answer: seven", "7", R),
    (INTEGER, "Answer: Seven.", "7", R),
    (INTEGER, "\\boxed{7}", "7", R),
    (INTEGER, "\\boxed{12} then \\boxed{7}", "7", R),
    (INTEGER, "Answer: 7.4", "7.4", W),
    (INTEGER, "Answer: 6.9999999", "6.9999999", W),
    (INTEGER, "Answer: 14/2", "7", R),
    (INTEGER, "Answer: -7", "-7", W),
    (INTEGER, "Answer: 7 or 8", N, W),
    (INTEGER, "Answer: 7 apples", "7", R),
    (INTEGER, "Answer: seven apples", "7", R),
    (INTEGER, "The final value is: 7", "7", R),
    (INTEGER, "Final value: 7", "7", R),
    (INTEGER, "The final integer answer is: 7", "7", R),
    (INTEGER, "Final answer is 7.", "7", R),
    (INTEGER, "The answer would be 7.", "7", R),
    (INTEGER, "The answer to the given question is 7", "7", R),
    (INTEGER, "N/A", N, W),
    (INTEGER, "None", N, W),
    (INTEGER, "?", N, W),
    (YEARS, "Answer: 20 years", "20", R),
    (YEARS, "The age gap between them is 20 years.", "20", R),
    (YEARS, "The age gap between them is twenty years.", "20", R),
    (YEARS, "The age gap is about 20-25 years.", N, W),
    (YEARS, "The age gap is 20 to 25 years.", N, W),
    (YEARS, "I cannot tell the age gap, for example it could be 20 years.", N, W),
    (YEARS, "One is 30 years old and the other is 50 years old.", N, W),
    (of("integer", "105"), "Answer: one hundred and five", "105", R),
    (of("integer", "2300"), "Answer: two thousand three hundred", "2300", R),
    (of("integer", "25"), "Answer: twenty-five", "25", R),
    (of("integer", "25"), "Answer: twenty five.", "25", R),
    (of("integer", "1000"), "Answer: 1,000", "1000", R),
    (of("integer", "1000", unit="g"), "Answer: 1 kg", "1000", R),
    (of("integer", "0"), "There are no cars in the image.", "0", R),
    (of("integer", "0"), "None of the algorithms is better.", "0", R),
    (of("integer", "2"), "Answer: two thirds", "0.666666666667", W),
    # float: rounded to the decimals of the gold answer, a tie away from zero
    (FLOAT, "Answer: 1.26", "1.26", R),
    (FLOAT, "Answer: 1.2567", "1.26", R),
    (FLOAT, "Answer: 1.255", "1.26", R),
    (FLOAT, "Answer: 1.2549", "1.25", W),
    (FLOAT, "Answer: 1.264", "1.26", R),
    (FLOAT, "Answer: 1.265", "1.27", W),
    (FLOAT, "Answer: 1.3", "1.30", W),
    (FLOAT, "Answer: 126%", "126.00", W),
    (FLOAT, "Answer: -1.26", "-1.26", W),
    (FLOAT, "so x = 1.26 m.", "1.26", R),
    (TENTH, "Answer: 3", "3.0", R),
    (TENTH, "Answer: 3.04", "3.0", R),
    (TENTH, "Answer: three", "3.0", R),
    (TENTH, "Answer: 2.95", "3.0", R),
    (TENTH, "Answer: 2.94", "2.9", W),
    (of("float", "-0.0", precision=1), "Answer: -0.04", "0.0", R),
    (of("float", "0.01", precision=2), "Answer: 6.9\\times 10^{-3}", "0.01", R),
    # number: units and tolerance
    (CM, "Answer: 200 cm", "200", R),
    (CM, "Answer: 2 m", "200", R),
    (CM, "Answer: 2000 millimetres", "200", R),
    (CM, "Answer: 2", "2", W),
    (CM, "Answer: 200", "200", R),
    (CM, "Answer: 200 cm^2", "200", R),
    (CM, "Answer: 2 kg", "2", W),
    (of("number", "2 m"), "Answer: 200 cm", "2", R),
    (of("number", "1.5 h"), "Answer: 90 minutes", "1.5", R),
    (of("number", "3", unit="in"), "Answer: 3 in the box", "3", R),
    (of("number", "24.45%"), "Answer: 24.45", "24.45", R),
    (of("number", "24.45"), "Answer: 24.45%", "24.45", R),
    (of("number", "24.45"), "Answer: 0.2445", "0.2445", W),
    (CHARTQA, "Answer: 10.5", "10.5", R),
    (CHARTQA, "Answer: 10.50001", "10.50001", W),
    (CHARTQA, "Answer: 10.6", "10.6", W),
    (CHARTQA, "Answer: 9.5", "9.5", R),
    (CHARTQA, "Answer: 9.49", "9.49", W),
    (of("number", "0", tolerance=0.05), "Answer: 0.01", "0.01", W),
    (of("number", "-10", tolerance=0.05), "Answer: -10.5", "-10.5", R),
    (YEAR, "Answer: 2100", "2100", W),
    (YEAR, "Answer: 2072", "2072", W),
    (YEAR, "Answer: 2012", "2012", W),
    (YEAR, "Answer: 2011", "2011", R),
    (of("number", "2011.0", tolerance=0.05), "Answer: 2100", "2100", R),  # written with a decimal: no year
    (of("number", "3500", tolerance=0.05), "Answer: 3600", "3600", R),
    (of("number", "2011", absolute_tolerance=1.0), "Answer: 2012", "2012", R),  # an absolute one is for years too
    (of("number", "0", absolute_tolerance=0.5), "Answer: -0.5", "-0.5", R),
    (of("number", "0", absolute_tolerance=0.5), "Answer: 0.51", "0.51", W),
    (of("number", "10", absolute_tolerance=0.0), "Answer: 10", "10", R),
    (of("number", "10", absolute_tolerance=0.0), "Answer: 10.000001", "10.000001", W),
    # list: order counts
    (PAIR, "Answer: [2014, 2016]", "[2014, 2016]", R),
    (PAIR, "Answer: 2014, 2016", "[2014, 2016]", R),
    (PAIR, "Answer: 2014 and 2016", "[2014, 2016]", R),
    (PAIR, "Answer: (2014, 2016)", "[2014, 2016]", R),
    (PAIR, "Answer: [2014,2016]", "[2014, 2016]", R),
    (PAIR, "\\boxed{[2014, 2016]}", "[2014, 2016]", R),
    (PAIR, "Answer: [2016, 2014]", "[2016, 2014]", W),
    (PAIR, "Answer: [2014]", "[2014]", W),
    (PAIR, "Answer: [2014, 2016, 2018]", "[2014, 2016, 2018]", W),
    (PAIR, "Answer: 2014", N, W),
    (PAIR, "Answer: between the two peaks", N, W),
    (PAIR, "So the years are [2014, 2016].", "[2014, 2016]", R),
    (of("list", "[1, 2, 3]"), "Answer: [one, two, three]", "[1, 2, 3]", R),
    (of("list", "[0.5, 1]"), "Answer: [1/2, 1.0]", "[0.5, 1]", R),
    (of("list", "[1000, 2000]"), "Answer: 1,000, 2,000", "[1000, 2000]", R),
    (of("list", "[1, 234]"), "Answer: [1,234]", "[1, 234]", R),
    (of("list", "[red, blue]"), "Answer: [Red, 'Blue']", "[red, blue]", R),
    # text: wording without case, articles, markup
    (YES, "Answer: Yes", "yes", R),
    (YES, "Answer: yes.", "yes", R),
    (YES, "Answer: **YES**", "yes", R),
    (YES, "Answer: No", "no", W),
    (YES, "Yes, it is.", "yes", R),
    (YES, "No, it is not.", "no", W),
    (YES, "Answer: Yes, because both are equal.", "yes", R),
    (YES, "Answer: perhaps", N, W),
    (YES, "Answer: yes or no", N, W),
    (of("text", "True"), "Answer: true", "true", R),
    (of("text", "False"), "Answer: True", "true", W),
    (CAR, "Answer: the red car", "red car", R),
    (CAR, "Answer: Red Car.", "red car", R),
    (CAR, "Answer: a red car", "red car", R),
    (CAR, "Answer: a blue car", "blue car", W),
    (CAR, "Answer: It is the red car. It stands left.", "red car", R),
    (CAR, "<answer>red car</answer>", "red car", R),
    (CAR, "red car", "red car", R),
    (CAR, "", N, W),
    (of("text", "12"), "Answer: 12.0", "12", R),
    (of("text", "12"), "Answer: twelve", "12", R),
    (of("text", "U.S. dollars"), "Answer: U.S. dollars", "us dollars", R),
    # expression: roots, π, fractions, units
    (ROOT, "Answer: 2√3", "2*sqrt(3)", R),
    (ROOT, "Answer: 2√{3}", "2*sqrt(3)", R),
    (ROOT, "Answer: 2\\sqrt{3}", "2*sqrt(3)", R),
    (ROOT, "Answer: 2\\sqrt3", "2*sqrt(3)", R),
    (ROOT, "Answer: $2\\sqrt{3}$ cm", "2*sqrt(3)", R),
    (ROOT, "Answer: 2 sqrt(3)", "2*sqrt(3)", R),
    (ROOT, "Answer: 2*sqrt(3)", "2*sqrt(3)", R),
    (ROOT, "Answer: 2 root 3", "2*sqrt(3)", R),
    (ROOT, "Answer: 2 square root of 3", "2*sqrt(3)", R),
    (ROOT, "Answer: √12", "2*sqrt(3)", R),
    (ROOT, "Answer: \\sqrt{12}", "2*sqrt(3)", R),
    (ROOT, "Answer: 6/√3", "2*sqrt(3)", R),
    (ROOT, "Answer: \\frac{6}{\\sqrt{3}}", "2*sqrt(3)", R),
    (ROOT, "Answer: \\frac{6\\sqrt{3}}{3}", "2*sqrt(3)", R),
    (ROOT, "Answer: 2√3 ≈ 3.46", "2*sqrt(3)", R),
    (ROOT, "Answer: AB = 2√3 cm.", "2*sqrt(3)", R),
    (ROOT, "Answer: The length of AB is 2√{3}m.", "2*sqrt(3)", R),
    (ROOT, "Answer: 3.46", "3.46", R),
    (ROOT, "Answer: 3.464", "3.464", R),
    (ROOT, "Answer: 3.4641016151377544", "3.46410161514", R),
    (ROOT, "Answer: 3.47", "3.47", W),
    (ROOT, "Answer: 3.5", "3.5", W),  # two digits do not tell 2√3 from 7/2
    (ROOT, "Answer: 3", "3", W),
    (ROOT, "Answer: 2", "2", W),
    (ROOT, "Answer: √3", "sqrt(3)", W),
    (ROOT, "Answer: -2√3", "-2*sqrt(3)", W),
    (ROOT, "Answer: 2√3 or 4", N, W),
    (ROOT, "Therefore, AB = 2√3.", "2*sqrt(3)", R),
    (ROOT, "So the length of AB is 2√3 cm.", "2*sqrt(3)", R),
    (ROOT, "So the length of AB is 2√5 cm.", "2*sqrt(5)", W),
    (ROOT, "<think>2√3</think><answer>12</answer>", "12", W),
    (TEN, "Answer: 10√2", "10*sqrt(2)", R),
    (TEN, "Answer: 10.0√2", "10*sqrt(2)", R),
    (TEN, "Answer: 10 root 2", "10*sqrt(2)", R),
    (TEN, "Answer: 10", "10", W),
    (TEN, "Answer: 14.14", "14.14", R),
    (TEN, "Answer: \\sqrt{200}", "10*sqrt(2)", R),
    (PI, "Answer: 12π", "12*pi", R),
    (PI, "Answer: 12\\pi", "12*pi", R),
    (PI, "Answer: 12 pi", "12*pi", R),
    (PI, "Answer: 12π cm²", "12*pi", R),
    (PI, "Answer: 12\\pi square units", "12*pi", R),
    (PI, "Answer: 37.7", "37.7", R),
    (PI, "Answer: 37.68", "37.68", R),  # π as 3.14
    (PI, "Answer: 37.699", "37.699", R),
    (PI, "Answer: 37.6991118431", "37.6991118431", R),
    (PI, "Answer: 37.5", "37.5", W),
    (PI, "Answer: 38", "38", W),
    (PI, "Answer: 12", "12", W),
    (PI, "Answer: 12π^2", "12*pi^2", W),
    (FIFTHS, "Answer: 2.4", "2.4", R),
    (FIFTHS, "Answer: 12/5", "2.4", R),
    (FIFTHS, "Answer: \\frac{24}{10}", "2.4", R),
    (FIFTHS, "Answer: 2\\frac{2}{5}", "2.4", R),
    (FIFTHS, "Answer: 2.5", "2.5", W),
    (FIFTHS, "Answer: \\frac{12}{5}cm", "2.4", R),
    (FIFTHS, "Answer: 12:5", "2.4", R),  # a ratio is a fraction
    (of("expression", "2√{2}-2"), "Answer: 2(√2-1)", "-2 + 2*sqrt(2)", R),
    (of("expression", "2√{2}-2"), "Answer: -2+2\\sqrt{2}", "-2 + 2*sqrt(2)", R),
    (of("expression", "2√{2}-2"), "Answer: 0.828", "0.828", R),
    (of("expression", "(√{3}+1)小时"), "Answer: 1+√3 hours", "1 + sqrt(3)", R),
    (of("expression", "\\frac{1}{6}π"), "Answer: π/6", "pi/6", R),
    (of("expression", "140°"), "Answer: 140 degrees", "140", R),
    (of("expression", "140°"), "Answer: 140^\\circ", "140", R),
    (of("expression", "5cm^2^"), "Answer: 5 cm²", "5", R),
    (of("expression", "2400πcm^{2}"), "Answer: 2,400π", "2400*pi", R),
    (of("expression", "50%"), "Answer: 50 percent", "50", R),
    (POLY, "Answer: $x^2-1$", "x^2-1", R),
    (POLY, "\\boxed{(x-1)(x+1)}", "(x-1)(x+1)", R),
    (POLY, "\\boxed{x^2+1}", "x^2+1", W),
    (POLY, "\\boxed{1}", "1", W),
    (POLY, "\\boxed{9^9^9^9}", "9^9^9^9", W),
    (of("expression", "y=2x+1"), "\\boxed{y = 1 + 2x}", "1+2x", R),
    (of("expression", "x>3"), "\\boxed{3<x}", "3<x", R),
    (of("expression", "(1,2]"), "\\boxed{(1, 2]}", "(1,2]", R),
    (of("expression", "(1,2]"), "\\boxed{(1, 2)}", "(1,2)", W),
    (of("expression", "\\log_2 8"), "Answer: 3", "3", R),
    # cues: which one counts
    (INTEGER, "Here's how I got the answer:\n\n1. We count.\n\nTherefore, there are 7.", "7", R),
    (INTEGER, "Answer: I am not sure.\nThere are 7 cars.", N, W),  # what was announced cannot be read
    (INTEGER, "There are **7** cars.\n\n| car | size |\n| --- | --- |\n| 1 | 2 |\n\nI hope this helps!", "7", R),
    (INTEGER, "There are 7 cars in total. They are red.\n\nIs there anything else I can help you with?", "7", R),
    (INTEGER, "There are 7 cars.", "7", R),
    (INTEGER, "There are seven cars left on the table.", "7", R),
    (INTEGER, "So f(4) = 7", "7", R),
    (INTEGER, "2 * 3 + 1 = 7", "7", R),
    (INTEGER, "x = 3, y = 7", N, W),
    (INTEGER, "There are 4 red and 3 blue cars.", N, W),
    (INTEGER, "The value is 7, which is greater than 3.", "7", R),
    (INTEGER, "7 cars in the image.", "7", R),
    (INTEGER, "It shows about 3 million cars.", "3000000", W),
    (INTEGER, "We know that there are 7", "7", R),
    (INTEGER, "There are 7 cars, so we have to", N, W),  # stops in the middle
    (INTEGER, "There are 7 cars. We also know that the sum of", N, W),
    (INTEGER, "<think>There are 7 cars.", N, W),  # thinking that never ended
    (INTEGER, "It is 7. It is 7. It is 7. It is 7.", N, W),  # a loop
    (INTEGER, "Is it 7?", N, W),
    (INTEGER, "There are 7 cars.\n\nQuestion: How many dogs are there?\n\nSolution: The answer is 3.", "7", R),
    (INTEGER, "Let me restate it.\n\nQuestion: How many cars are there?\n\nAnswer: 7", "7", R),
    (INTEGER, "There are 7 cars.<|im_end|>", "7", R),
    (INTEGER, "So the acceleration is 7 cm/s^2.", "7", R),
    (INTEGER, "4\nTo find the number we count again.\nTherefore, there are 7.", "7", R),
    (INTEGER, "7\nThis follows from the figure.", "7", R),
    (INTEGER, "Therefore, there are 7.\n```python\nprint(35)\n```", "7", R),
    (of("integer", "0", "How many have exactly 56 boxes?"), "0 shipments have exactly 56 boxes.", "0", R),
    (of("integer", "5", "When does it start?"), "It starts at x=5.", "5", R),
    (INTEGER, "I don't have enough information, but a guess is 7.", N, W),
    (of("integer", "2016", "Which year was the best?"), "The best was in 2016, with 94% of all.", "2016", R),
    (of("integer", "3", "In how many years was it high?"), "In 3 years, it was high.", "3", R),
    (of("integer", "11", "Which subject has the highest rate?"), "It is subject 11 with a rate of 90.", "11", R),
]

POLAR = among("A", "yes", "no", question="Is Web Green the maximum?")
LESS = among("A", "Yes", "No", question="Are there fewer red cars than blue cars?")
EQUAL = among("A", "Yes", "No", question="Is the number of cats equal to the number of dogs?")
COLOURS = among("A", "red", "purple", "blue", question="Which function grows the fastest?")
LENGTHS = among("A", "5√{3}m", "10√{3}m", "5m", question="What is the height of the tree?")
TIMES = among("A", "5:30", "9:30", "11:30", question="What time is it?")
SHAPES = among("A", "A", "B", "C", "D", question="Which is the next shape?")
WEBS = among("A", "Frogs would decrease", "Mice would increase", question="What would happen?")
ANGLES = among("B", "30.0", "40.0", "45.0", "60.0", question="What is the size of angle C?")

# (problem, text, letter or None)
STATED = [
    (POLAR, "Yes, Web Green is the maximum.", "A"),
    (POLAR, "No, Web Green is not the maximum.", "B"),
    (POLAR, "Web Green is the maximum.", "A"),
    (POLAR, "Web Green is not the maximum.", "B"),
    (POLAR, "Based on the image, Web Green is not the maximum. The maximum is actually Teal.", "B"),
    (POLAR, "Web Purple is the maximum.", None),  # about another one
    (POLAR, "It is unclear whether Web Green is the maximum.", None),
    (POLAR, "So the answer is no, it is not.", "B"),
    (POLAR, "The answer must be yes.", "A"),
    (POLAR, "Answer: No, it is not.", "B"),
    (POLAR, "Yes or no?", None),
    (POLAR, "No other colour is shown.", None),
    (LESS, "There are fewer red cars than blue cars.", "A"),
    (LESS, "There are more red cars than blue cars.", "B"),
    (LESS, "There are fewer blue cars than red cars.", "B"),
    (LESS, "There are more blue cars than red cars.", "A"),
    (LESS, "There are not fewer red cars than blue cars.", "B"),
    (LESS, "There is an equal number of red cars and blue cars.", "B"),
    (LESS, "There are cars.", None),
    (LESS, "A: No", "B"),  # answers a "Q:"
    (LESS, "A) No", "A"),
    (LESS, "There are fewer red cars than blue cars.</s>", "A"),
    (
        among("B", "3", "It cannot be determined", question="How long is AB?"),
        "AC = 6. So AB cannot be determined.",
        "B",
    ),
    (among("B", "3", "6", question="How long is AB?"), "AC = 6. So AB cannot be determined.", None),
    (EQUAL, "The number of cats is equal to the number of dogs.", "A"),
    (EQUAL, "The number of cats is greater than the number of dogs.", "B"),
    (COLOURS, "The blue function grows the fastest.", "C"),
    (COLOURS, "The function that grows the fastest is purple.", "B"),
    (COLOURS, "It grows faster than the red and the blue one.", None),
    (COLOURS, "It is not the red function.", None),
    (COLOURS, "The red one is slow, so the fastest function is the blue one.", "C"),
    (COLOURS, "The answer must be the red.", "A"),
    (LENGTHS, "The height of the tree is 5√3 m.", "A"),
    (LENGTHS, "C) 5 m", "C"),
    (LENGTHS, "A) 5√3 m", "A"),
    (LENGTHS, "\\boxed{10\\sqrt{3}}", "B"),
    (LENGTHS, "Answer: 10 root 3", "B"),
    (LENGTHS, "Answer: 7√3", None),
    (TIMES, "The clock shows 9:30.", "B"),
    (TIMES, "The clock shows 19:30.", None),
    (SHAPES, "The next shape is C.", "C"),
    (SHAPES, 'The next shape is "D".', "D"),
    (WEBS, "Then the frogs would decrease.", "A"),
    (WEBS, "The mice population would likely increase.", "B"),
    (WEBS, "The owls would increase.", None),
    (ANGLES, "So the size of angle C is 45°.", "C"),
    (ANGLES, "We get ∠C = 180° - 140° = 40°.", "B"),
    (ANGLES, "If ∠A = 30°, then ∠C = 60°.", "D"),
    (ANGLES, "Given that ∠A = 30, the size of angle C is 45.", "C"),
    (ANGLES, "So angle C would be (D) 60°.", "D"),
    (ANGLES, "Therefore, option (B) is the correct answer.", "B"),
    (ANGLES, "The correct answers are (B) 40 and (C) 45.", None),
    (ANGLES, "Therefore, option (B) is not possible.", None),
    (ANGLES, "Therefore, the size of angle C is D.", "D"),
    (ANGLES, "Therefore, the tangent point is C.", None),
    (ANGLES, "Choose the correct option letter:\n(A) 30\n(B) 40\n(C) 45\n(D) 60", None),  # the choices again
    (ANGLES, "Choose the correct answer:\n(A) 30\n(B) 40", None),
    (ANGLES, "Answer:\n(A) 30", "A"),
    (ANGLES, "The option letter is D.", "D"),
    (ANGLES, "The closest option is B.", "B"),
    (ANGLES, "选项B是正确答案。", "B"),
    (ANGLES, "所以选C", "C"),
    (ANGLES, "回答：D", "D"),
    (ANGLES, "(B) 40.0\n\nThe angle at C is half of 80.", "B"),
    (ANGLES, "**(C) 45**", "C"),
    (ANGLES, "The angle is **45°** by the theorem above.\n\nI hope this helps!", "C"),
    (ANGLES, "The angle is 50°.", None),
    (ANGLES, "It lies between 40 and 45 degrees.", None),
    (ANGLES, "As AB = 40.0 and CD is parallel, we know that", None),
    (ANGLES, "Angle A is 40°. " * 6, None),
]

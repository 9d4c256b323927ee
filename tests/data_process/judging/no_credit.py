r"""Texts that must not be credited: one a line, with "\n" for a line end.

In VALUES the gold answer is 5 ("How long is AB?"), in LETTERS it is B among 30°, 40°, 45°, 60°. The writer denies or
supposes the answer, hedges between several, quotes it from the question or from somebody else, takes it back, or the
text was cut off. A line that the judge credits is a fault. Add lines; never remove one.
"""

from __future__ import annotations

VALUES = r"""
AB is not 5.
AB是5倍。
AB为5~7
AB为5～7。
The length of AB is 5~7.
The length is 5 ~ 7 cm.
AB isn't 5.
AB is not equal to 5 cm.
AB does not equal 5.
AB cannot be 5.
AB can't be 5 here.
AB could not possibly be 5.
AB was never 5.
AB = 5 is false.
AB ≠ 5.
AB ≠ 5
So AB \neq 5.
It is not 5.
It's not 5.
There are not 5 of them.
There aren't 5 of them.
We do not have 5.
The length is certainly not 5.
The length is definitely not 5 units.
Clearly, AB is not exactly 5.
The answer is not 5.
The answer isn't 5.
The answer is certainly not 5.
The correct answer is not 5.
Answer: not 5
Answer: Not 5.
Answer: anything but 5
\boxed{\text{not } 5}
\boxed{\neq 5}
<answer>not 5</answer>
Final answer: it is not 5
The value 5 is wrong.
The value 5 is incorrect.
The value 5 is impossible here.
The value 5 is ruled out.
The value 5 does not satisfy the equation.
The value 5 doesn't work.
The value 5 fails the test.
The value 5 contradicts the triangle inequality.
The number 5 cannot be right.
The prediction 5 is wrong.
A length of 5 is too large.
A length of 5 would be absurd.
5 is not the length.
5 is wrong
5 is not correct.
5 is incorrect.
5 isn't right.
So 5 must be rejected.
We can rule out 5.
We reject AB = 5.
We exclude 5.
This rules out 5.
It is anything but 5.
The length is far from 5.
It is not true that AB is 5.
It is false that AB = 5.
I do not think AB is 5.
I don't believe that AB is 5.
I doubt that AB is 5.
We cannot conclude that AB is 5.
This does not mean that AB is 5.
It does not follow that AB is 5.
Nobody can say that AB is 5.
Neither 5 nor 6 works.
If AB were 5, the triangle would not close.
If AB was 5, the angles would not add up.
If AB is 5, then the area is too small.
If AB = 5, this fails.
Suppose AB is 5.
Suppose that AB = 5.
Assume AB = 5.
Let us assume that AB is 5.
Assuming AB is 5, we get a contradiction.
Imagine AB is 5.
Let AB = 5.
Let's say AB is 5.
What if AB is 5?
Is AB 5?
Could AB be 5?
AB would be 5 if the angle were 90°.
AB would be 5 if the angle was right.
AB would have been 5 had the angle been right.
AB would equal 5 unless C is obtuse.
Whether AB is 5 remains open.
It is unclear whether AB is 5.
AB might be 5.
AB may be 5.
AB could be 5.
AB could be 5 or 6.
Maybe AB is 5.
Perhaps it is 5.
Possibly 5.
It is possibly 5.
It might have been 5.
AB is 5 or 6.
AB is either 5 or 6.
AB is between 5 and 6.
Answer: 5 or 6
Answer: 5, or 6
Answer: 5; 6
Answer: 5 or possibly 6
Answer: 5 (or 6)
Answer: either 5 or 6
Answer: 5 and 6
Answer: 5、6
Answer: 5或6
Answer: 5. Or 6.
Answer: 5. Alternatively 6.
Answer: 5 to 6
Answer: 5-6
Answer: 5~6
Answer: between 5 and 6
Answer: maybe 5
Answer: 5?
Answer: 5, 6
Answer: 5, 6, 7
\boxed{5} or \boxed{6}
\boxed{6} or \boxed{5}
\boxed{5, 6}
\boxed{5 \text{ or } 6}
\boxed{x=5, y=6}
\boxed{5}, \boxed{6}
\boxed{5} and \boxed{6}
The answer is 5 or 6.
The answer is 5 or the answer is 6.
The answer is either 5 or 7.
The answer could be 5.
The answer might be 5.
The answer may be 5.
x = 5 or x = 6
Answer: x = 5 or x = 6
Answer: less than 5
Answer: more than 5
Answer: at least 5
Answer: x > 5
Answer: x >= 5
Answer: x <= 5
Answer: x != 5
The answer is less than 5.
AB is less than 5.
AB is greater than 5.
AB is at most 5.
The student says AB is 5.
The student's answer: 5
The student's answer is 5.
The student answered 5.
One student wrote: Answer: 5
Tom says it is 5.
Tom's answer is 5.
Tom claims that AB is 5.
He says the answer is 5.
She thought the answer was 5.
Her answer is 5.
His answer: 5
My friend thinks AB is 5.
Someone guessed 5.
Candidate 2 says 5.
Candidate 1's answer is 5.
Candidate A: 5
Prediction 1 says AB is 5.
The model's answer is 5.
The other model predicted 5.
Another candidate gives AB = 5.
According to the first student, AB is 5.
Some people believe AB is 5.
Some might think AB is 5.
You might think that AB is 5.
One might say the answer is 5.
Students often answer 5.
Many people think the answer is 5.
A common mistake is to say 5.
A common wrong answer is 5.
A common mistake is AB = 5.
The common error gives 5, as a mistake.
The wrong answer is 5.
Wrong answer: 5
An incorrect answer: 5
It is tempting to say that AB is 5.
It is wrong to say that AB is 5.
At first glance, AB seems to be 5.
I initially thought AB was 5.
By mistake one gets AB = 5.
Mistakenly, AB is 5.
The question asks whether AB is 5.
The question says AB is 5.
The problem states that AB is 5.
The problem asks if the answer is 5.
We are told that AB is 5.
Given that AB is 5.
Given: AB = 5
The hint says that the answer is 5.
If the answer is 5, something is off.
Suppose the answer is 5.
If the answer were 5, we would see a square.
I doubt the answer is 5.
I do not think the answer is 5.
It is not true that the answer is 5.
We cannot say that the answer is 5.
Why is the answer 5?
Is the answer 5?
Nobody says the answer is 5.
Example answer: 5
Answer: 5. Wait, that is wrong.
Answer: 5. Wait, that's not right.
Answer: 5\nNo, that is incorrect.
Answer: 5\n\nActually, this is wrong.
The answer is 5. But this is not correct.
The answer is 5. However, that is impossible.
The answer is 5, which is wrong.
The answer is 5, but that is incorrect.
The answer is 5. Scratch that.
The answer is 5. I made a mistake.
The answer is 5. I made an error above.
The answer is 5. I take it back.
The answer is 5. Sorry, I was wrong.
The answer is 5. Hmm, that cannot be right.
The answer is 5. Correction: I misread the figure.
The answer is 5. On second thought, no.
The answer is 5. Let me recalculate.
The answer is 5. Let me reconsider the figure.
The answer is 5. It could also be 6.
\boxed{5} Wait, that is wrong.
\boxed{5}\nNo, this is not correct.
\boxed{5}. Disregard that.
<answer>5</answer> Oops, that is wrong.
AB = 5. That is wrong.
AB is 5. No, that is not possible.
Answer: 5 is wrong
Answer: 5 is not correct
Answer: 5, which is incorrect
Answer: 5 is impossible
Answer: 5 isn't right
Answer:
The answer is
Answer: (
AB = 5 +
AB = 5 *
So AB is 5 or
Answer: 5 or
Answer: 5 +
AB is 5 times
<think>AB is 5. Let me check
<think>The answer might be 5
AB不是5
AB不是5。
AB不等于5。
AB≠5
AB并非5。
AB不可能是5。
AB不能为5。
AB的长不是5厘米。
答案不是5。
答案不是5
正确答案不是5。
答案：不是5
5不对。
5是错的。
5是错误的。
5不正确。
5不符合题意。
AB=5不成立。
AB=5与已知矛盾。
舍去5。
排除5。
如果AB是5，三角形就不成立。
如果AB=5，则矛盾。
假设AB=5。
假设答案是5。
若AB=5，则不成立。
设AB=5。
AB可能是5。
AB也许是5。
答案可能是5。
AB是5或6。
答案是5或6。
答案是5、6。
答案：5或6
答案：5和6
答案：5吗
答案是5吗？
AB是5吗？
是否AB=5？
小明说AB是5。
小明的答案是5。
他认为答案是5。
有人认为AB是5。
有同学说答案是5。
学生的答案是5。
错误答案是5。
错误答案：5
常见的错误是AB=5。
容易误认为AB=5。
题目说AB是5。
题目问AB是不是5。
题目给出AB=5。
答案是5。不对，我算错了。
答案是5。等等，错了。
答案是5，这是错的。
答案：5\n更正：我看错了。
答案是5。刚才的答案有误。
\boxed{5}\n不对，重新计算。
我不认为AB是5。
不能说AB是5。
并不是5。
没有人说答案是5。
ABは5ではない。
ABは5ではありません。
ABは5じゃない。
答えは5ではない。
答えは5ではありません。
答え：5ではない
5は間違いです。
5は誤りです。
5ではなさそうだ。
ABは5とは限らない。
もしABが5なら、三角形にならない。
仮にABが5だとすると矛盾する。
ABは5かもしれない。
ABは5かもしれません。
ABは5か6です。
答えは5か6です。
答えは5または6です。
答え：5、6
答えは5ですか？
答えは5でしょうか。
ABは5だろうか。
太郎さんはABは5だと言いました。
彼の答えは5です。
ある人は5だと言った。
学生は答えは5だと考えた。
間違った答えは5です。
よくある間違いは5です。
問題文にはABは5とある。
答えは5です。いや、違います。
答えは5です。間違えました。
答えは5です。訂正します。
答え：5\nこれは間違いです。
答えは5です。待ってください、計算し直します。
"""

LETTERS = r"""
It is not (B).
It isn't (B).
The answer is not (B).
The answer is not B.
The answer isn't B.
The correct option is not B.
Answer: not B
Answer: Not (B).
Answer: anything but B
Option B is wrong.
Option B is incorrect.
Option B is not correct.
Option B isn't right.
Option (B) cannot be correct.
Option B can be ruled out.
Option B is eliminated.
(B) is wrong.
(B) is not the answer.
(B) can be excluded.
B is not the correct answer.
B is the wrong answer.
B is incorrect.
B is wrong
So we eliminate (B).
So we rule out (B).
We reject option (B).
Do not choose (B).
Don't choose B.
Never choose (B).
I would not choose (B).
I would not pick B.
I do not think the answer is (B).
I don't think it is (B).
I doubt that it is (B).
It is not true that (B) is correct.
It is false that the answer is B.
Neither (A) nor (B) is correct.
None of A and B is correct.
Everything except (B).
Any option other than (B).
\boxed{\text{not B}}
<answer>not B</answer>
A common mistake is to choose (B).
A common mistake is to choose B.
It is tempting to choose (B).
It is a trap to choose (B).
One might choose (B).
Some students choose (B).
Many would say the answer is (B).
Students often pick (B).
Some might think the answer is B.
You might think that it is (B).
The student chose (B).
The student's answer is (B).
The student's answer: B
Tom says it is (B).
Tom's answer is B.
He thinks the answer is B.
She thought the answer was B.
Her answer: B
His answer is (B).
Someone guessed (B).
Candidate 1 chose (B).
Candidate 2's answer: B
Prediction 2 says (B).
The model's answer is B.
Another candidate picked (B).
The other model predicted (B).
According to the first student, it is (B).
The wrong answer is B.
Wrong answer: B
An incorrect answer: B
If the answer is (B), the angle is 40°.
If it were (B), the angle would be 40°.
If B were correct, the sum would be 190°.
Suppose the answer is B.
Suppose (B) is correct.
Assume that the answer is (B).
Assuming B is correct, we get a contradiction.
The angle would be (B) if AB were parallel.
Whether (B) is correct is unclear.
Is it (B)?
Is the answer B?
Could it be (B)?
Why is the answer B?
It might be (B).
It may be (B).
It could be (B).
Maybe (B).
Perhaps it is (B).
Possibly (B).
The answer might be B.
The answer could be B.
Answer: maybe B
Answer: B?
Answer: B or C
Answer: B and C
Answer: B/C
Answer: B, C
Answer: B; C
Answer: B & C
Answer: B、C
Answer: B. C
Answer: B C
Answer: B or maybe C
Answer: B or possibly option C
Answer: (B) or (C)
Answer: (B), (C)
Answer: (B)(C)
Answer: (B) and (D)
Answer: B | C
Answer: B + C
Answer: BC
Answer: B or
Answer: B, or else C
Answer: B, possibly C
Answer: B (or C)
Answer: B. Alternatively, C.
Answer: B, but C is also possible
Answer: either B or C
Answer: Either (B) or (C).
Answer: A, B
Answer: A、B
Answer: A. B
Answer: A and B
Answer: A, B, C and D
Answer: C or B
The answer is B or C.
The answer is (B) or (C).
The answer is either B or D.
The answer is B, C.
The answer is A, B and D.
The answer is B or the answer is C.
\boxed{B} or \boxed{C}
\boxed{B, C}
\boxed{B \text{ or } C}
\boxed{B/C}
\boxed{BC}
<answer>B or C</answer>
<answer>B, C</answer>
Both (B) and (C) are correct.
B and C are correct.
(B) or (C).
It is (B) or (C).
Options B and C are both right.
Answer: B is wrong
Answer: B is not correct
Answer: B, which is wrong
Answer: B is incorrect
Answer: B isn't right
Answer: B cannot be correct
Answer: 30 or 40
Answer: 40 or 45
Answer: not 40°
Answer: 40° is wrong
The angle is not 40°.
The angle is not equal to 40 degrees.
The angle isn't 40°.
If the angle were 40°, the lines would be parallel.
Suppose the angle is 40°.
The angle might be 40°.
The angle is 40° or 45°.
The student says the angle is 40°.
The value 40° is wrong.
40° is not the answer.
Answer: B. Wait, that is wrong.
Answer: B. No, that's not right.
Answer: B\nActually, this is incorrect.
Answer: B\n\nHmm, that is not possible.
The answer is (B). But that is wrong.
The answer is B. Scratch that.
The answer is B. I made a mistake.
The answer is B. On second thought, I am not sure.
The answer is B, which is incorrect.
The answer is B. I take that back.
The answer is B. It could also be C.
\boxed{B} Wait, that's wrong.
<answer>B</answer> No, that is incorrect.
Option B is correct. Wait, that is wrong.
The question asks whether (B) is correct.
The question asks if the answer is B.
The hint says the answer is B.
The problem says that it is (B).
Answer: (
<think>It is (B). Let me check
<think>Maybe B
不选B。
不选B
不能选B。
不应选B。
故不选B。
不要选B。
答案不是B。
答案不是B
正确答案不是B。
正确选项不是B。
B不对。
B错误。
B是错的。
B不正确。
B选项错误。
选项B错误。
选项B不正确。
选项B不符合题意。
排除B。
排除选项B。
故排除B。
选B是错的。
选B是错误的。
选B不对。
如果选B，则角为40°。
若选B，则矛盾。
假设答案是B。
假设选B。
如果答案是B，那么矛盾。
可能选B。
可能是B。
也许选B。
答案可能是B。
答案是B或C。
答案是B、C。
答案：B、C
答案：B或C
答案：B和C
答案是B和C。
选B或C。
选B、C。
故选B、D。
故选A、B。
故选B或D
B或C
B、C都对。
B和C都正确。
是不是选B？
选B吗？
答案是B吗？
为什么选B？
小明选B。
小明的答案是B。
他选B。
她认为答案是B。
有人选B。
有同学选B。
学生选B。
学生的答案是B。
很多同学误选B。
容易错选B。
误选B。
错误答案是B。
错误答案：B
题目问答案是不是B。
常见的错误是选B。
答案是B。不对，我错了。
答案是B。等等，算错了。
故选B。更正：我看错了。
答案：B\n不对，重新考虑。
角不是40°。
角C不等于40°。
假设角C是40°。
我不认为答案是B。
并不选B。
Bではない。
Bではありません。
答えはBではない。
答えは（B）ではありません。
正解はBではない。
正解はBではありません。
Bは間違いです。
Bは誤りです。
Bは正しくない。
Bは正解ではない。
Bが正解ではない。
Bを選ばない。
Bを選ぶのは間違いです。
もしBが正解なら矛盾する。
仮に答えがBだとすると矛盾する。
Bかもしれない。
答えはBかもしれません。
答えはBかCです。
答えはBまたはCです。
答え：B、C
答え：BとC
BとCが正解です。
Bまたは C
答えはBですか？
答えはBでしょうか。
彼の答えはBです。
太郎はBを選んだ。
学生はBを選びました。
ある人はBだと言った。
間違った答えはBです。
よくある間違いはBを選ぶことです。
答えはBです。いや、違います。
答えはBです。間違えました。
正解はBです。訂正します。
答え：B\nこれは間違いです。
Bを除く。
"""

# Cut by the token limit: the answer may have become another.
TRUNCATED_VALUES = r"""
Answer: 5
The answer is 5
The answer is 5.
So AB is 5
AB = 5
AB is 5.
\boxed{5
<answer>5
答案是5
答えは5
"""
TRUNCATED_LETTERS = r"""
So it is (B)
Option B is correct.
<answer>B
\boxed{B
Therefore, B
The angle is 40
Bが正解
选项B
"""

"""Tells what a text asserts: a value that it denies, supposes, quotes or takes back is not its answer.

English, Chinese and Japanese. Each test looks at one sentence, and each pattern is bounded, so no input takes long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LEAD_CHARS = 200  # characters of a sentence before a value or a cue
FRAME_CHARS = 12  # that a frame shares with the question where it only restates it

# A clause ends at a comma, and a new statement begins after one of these words.
_CLAUSE = re.compile(
    r"[,;:](?=\s)|[，；：、。．]|—|(?<!anything)\s(?:but|however|so|therefore|then|thus|hence|because|since|although|though|while"
    r"|whereas|rather|instead)(?=[\s,])|(?:而是|但是?|所以|因此|因为|则|那么|しかし|だから|よって|ので)",
    re.IGNORECASE,
)
_STATEMENT = re.compile(
    r"[;；]|(?:^|(?<!anything)[\s,])(?:but|however|so|therefore|then|thus|hence|actually|in fact|in reality)(?=[\s,])"
    r"|(?:而是|但|其实|实际上|所以|因此|则|那么|しかし|実際|だから|よって)",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?](?=\s)|[。！？\n]")
# The value is what somebody else says, what would follow, what may be, or what a mistake leads to.
_OTHERS = (
    r"he|she|they|someone|somebody|people|students?|pupils?|users?|teachers?|friends?|classmates?|candidates?"
    r"|predictions?|models?|attempts?|assistants?|questions?|problems?|hints?|captions?|solutions?|others?|colleagues?"
    r"|responses?|textbooks?"
)
_SAYS = (
    r"sa(?:y|ys|id)|claim(?:s|ed)?|wrote|writes|thinks?|thought|guess(?:es|ed)?|answer(?:s|ed)|chose|chooses?|pick(?:s|ed)"
    r"|believe[sd]?|asks?|asked|suggest(?:s|ed)?|predict(?:s|ed)|propose[sd]?|argue[sd]?|assume[sd]?|suppose[sd]?"
    r"|repl(?:y|ies|ied)|insist(?:s|ed)?|found|reported|obtained|computed|expect(?:s|ed)?|tells?|told|selected|got|states?|stated|gives|gave"
)
_PUPILS = (
    r"(?:Tom|Tim|Jim|Bob|Sam|Ann|Anna|Amy|Mary|John|Jack|Jane|Lily|Lucy|Peter|Paul|Alice|Kate|Max|Ben|Emma|David|Mike"
    r"|Sarah|Alex|Xiao\s?\w{2,8})"
)
_FRAME = re.compile(
    rf"\b(?:{_OTHERS})(?:\s(?:\w{{1,16}}|[#\d]{{1,3}})){{0,3}}\s(?:{_SAYS})\b"
    r"|\b(?-i:(?!It|This|That|Which)[A-Z][a-z]{1,15})\s(?:says|said|claims|claimed|thinks|thought|guesses|guessed|believes|believed|wrote"
    r"|answered|replied|insists)\b"
    r"|\baccording to (?:him|her|them|the (?:student|user|candidate|first|second|other|teacher|model)"
    rf"|(?-i:{_PUPILS})(?![\w'’]))"
    r"|(?<!not )(?<!n't )(?<!n’t )\b(?:forg(?:et|ets|etting|ot|otten)|overlook\w{0,3})\b"
    r"|\b(?:candidate|prediction|attempt|response|solution)\s(?:(?-i:[A-J])|#?\d{1,2})(?:'s)?\b"
    r"|\b(?:mistak(?:e|es|en|enly)|misread|misconception|tempt(?:ed|ing)|trap|wrongly|erroneous(?:ly)?"
    r"|incorrectly|falsely|misleading)\b|\bat first (?:glance|sight)\b|\b(?:(?:I|we)(?: had)? (?:initially|first"
    r"|originally)|initially)\b.{0,40}\b(?:thought|seem\w*|look\w*|guess\w*|assumed|appear\w*)"
    r"|\b(?:one|1|some|many|you|we|people|students?) (?:might|may|could|often|would (?:think|say|guess|expect))\b"
    r"|\b(?:suppos(?:e|ing)|assum(?:e|ing)|imagine|hypothes\w+|whether|pretend)\b"
    r"|\b(?:might|may|could)\s(?:well\s|also\s|have\s|possibly\s|perhaps\s)?(?:be|been|equal)\b"
    r"|\b(?:maybe|perhaps|possibly|doubt(?:s|ful)?|unlikely|suspect|unless|either)\b"
    r"|\b(?:some|many|most|few|several|others|readers|guessers|test takers|anyone|everyone"
    r"|everybody)\b(?:\s\w{1,12}){0,3}?\s"
    r"(?:would|will|might|may|could|fall|answer|choose|pick|say|go for|get|write|select|mark|think|guess|conclude"
    r"|assume)\b"
    r"|\bfall(?:s|ing)? for\b|\b(?:lure[sd]?|fooled|distractor|decoy|pitfall|careless(?:ly)?)\b|^\W*were\b"
    r"|\b(?:if)\b.{0,60}\bwere\b.{0,80}\bwould(?:n't)?\b|\bwould\b.{0,80}\b(?:if|were|unless)\b"
    r"|\bhad\b.{0,60}\bwould\b"
    r"|^\W{0,4}(?:given|let)\b(?!.*,)|\b(?:we are|we're|it is|is) (?:given|told|asked) (?:that|whether|if)\b"
    r"|\b(?:his|her|their|your|wrong|incorrect|false|example|sample|[\w.-]{1,20}['’]s)\s(?:\w{1,12}\s)?(?:answer|guess|prediction|choice|attempt)s?\b"
    r"|\bif\b[^,]{0,40}(?:\b(?:answer|option|choice|correct)\b|\([A-J]\)|\bit were\b)|\bwould have been\b"
    r"|\b(?:refuse to (?:believe|accept)|(?:no|little) reason to (?:think|believe|assume)|(?:was|were|is) thought to"
    r"|used to be|allegedly|supposedly)\b"
    r"|\b(?:random(?:ly)?|wild guess|just a guess|guessing)\b",
    re.IGNORECASE,
)
_FRAME_EAST = re.compile(  # apart, since most texts are ASCII
    r"如果|假如|假设|假定|倘若|要是|若|设(?!计)|可能|也许|或许|大概|似乎|好像|未必|(?:老师|同桌|朋友|妈妈|爸爸)[说认]|是否|难道|有人|有的同学|同学们?[认以说]|学生[认以说答写]|误[以认选算写]|错[误选算写解]"
    r"|常见的?错|题[目中](?:问|说|给|要求)|(?:小[一-龥]|[他她])(?:们)?(?:认为|说|以为|觉得|选|写|回答|的答案|算得|算出|求得|得出)|候选|以为|不确定|猜"
    r"|もし|仮に|かもしれ|だろうか|でしょうか|とすると|とすれば|だとしたら|(?:彼|彼女|生徒|学生|友人|友達|誰か|ある人)[^。]{0,12}(?:言|考え|答え|思|主張)"
    r"|と(?:言|い)う人|間違[えっい]|誤[りっ答解]|問題(?:文)?(?:では|には|に)|可能性|たぶん|おそらく|候補"
    r"|と(?:言[いっ]|答えまし|答えた|主張)|学生的|错误答案"
)
# A condition before the statement: "If we assume a cross of both, the ratio is 1:3".
_CONDITION = re.compile(
    r"^(?:.*\s)?(?:[Ii]f|[Gg]iven|[Aa]ssuming)\b(?:(?!\b(?:were|had|answer|option|choice|correct)\b|\([A-J]\))[^,]){3,},\s"
)
_NOT = (
    r"(?:\b(?:not|never|cannot|neither|nor|nobody|no one|nothing|hardly|scarcely)\b(?! only\b| (?:hard|difficult) to)"
    r"|\b(?:under no circumstances?|by no means|in no way|on no account)\b|n['’]t\b|≠|\\neq?\b|!=)"
)
# "The cars that are not red are 5": the negation belongs to a relative clause, which ends before the verb.
_VERB = re.compile(r"\b(?:is|are|was|were|equals|has|have)\s|[=≈]")
_NEGATION = re.compile(_NOT, re.IGNORECASE)
_BEFORE = re.compile(
    r"\b(?:rather than|instead of|other than|except(?: for)?|anything but|far from|rul(?:e|es|ed|ing) out|reject(?:s"
    r"|ed)?"
    r"|exclud(?:es?|ing)|eliminat(?:es?|ing)|discard(?:s|ed)?|contradicts?|no longer|fail(?:s|ed)? to|denie[sd]"
    r"|deny|refut(?:es?|ed)|disprove[sd]?|(?:wrong|incorrect|false|untrue) (?:to|that)|avoid)\b"
    r"|不(?!难|妨)|并?非|没有?|否认|[排舍删]除|舍去|别选|勿选|≠|错",
    re.IGNORECASE,
)
_AUX = r"(?:is|are|was|were|does|do|did|can|could|will|would|has|have|must|should|may|might)"
_AFTER = re.compile(
    rf"\b{_AUX}(?:n['’]t|\s(?:clearly\s|certainly\s|definitely\s|also\s|therefore\s|thus\s)?(?:not|never))\b"
    r"|\bcannot\b|\bcan['’]t\b|\bviolates?\b"
    r"|\bleads? (?:nowhere|to a contradiction)\b|\bfails?\b|\b(?:is|are|was|were|be(?:en)?|seems?|looks?|as)\s"
    r"(?:\w{1,12}\s){0,2}?(?:wrong|incorrect|false"
    r"|refuted|inconsistent|disproved|disproven|dismissed|contradicted|untenable|nonsense"
    r"|invalid|impossible|extraneous|discarded|excluded|rejected|eliminated|ruled out|out of the question|mistaken"
    r"|absurd|too (?:many|few|much|little|large|small|big"
    r"|high|low|long|short))\b|\bcontradict|\bnot (?:correct|right|possible|the answer)\b"
    r"|不(?:对|是|正确|成立|符|满足|行|可|合|能|等|会|选)|错|矛盾|[排舍]除|舍去|吗|么[？?]"
    r"|ではな|じゃな|ではあり|でな[いく]|とは限|違[いうっ]|誤|矛盾|あり得な|ありえな|を除|は不適|になら|とは言え|とはな",
    re.IGNORECASE,
)
_RELATIVE = re.compile(r"\b(?:that|which|who|whose|where)\b")


def _frames(text: str) -> Iterator[re.Match[str]]:
    yield from _FRAME.finditer(text)
    if not text.isascii():
        yield from _FRAME_EAST.finditer(text)


def framed(text: str, question: str = "") -> bool:
    """Whether a sentence only supposes, guesses or reports what somebody else says.

    Words that restate the question ("people who say", "if frogs were removed") are no sign of that.
    """
    asked = question.casefold()
    return any(
        text[m.start() : m.start() + FRAME_CHARS].casefold() not in asked
        and not all(word in asked for word in m[0].casefold().split())
        for m in _frames(text)
    )


def denied(text: str, start: int, end: int, question: str = "") -> bool:
    """Whether a sentence denies or does not assert what stands at text[start:end]."""
    before = text[max(0, start - LEAD_CHARS) : start]
    statements = [m.end() for m in _STATEMENT.finditer(before)]
    frame = _CONDITION.sub("", before[statements[-1] if statements else 0 :]) + "_" + text[end : end + LEAD_CHARS]
    if framed(_STATEMENT.split(frame)[0] if not _STATEMENT.match(frame) else frame, question):
        return True
    if re.match(r"\W*(?:if|when)\b", before, re.IGNORECASE) and not re.search(r"[,，]|\bthen\b", before):
        return True  # "If AB is 5, ..."
    clauses = [m.end() for m in _CLAUSE.finditer(before)]
    lead = before[clauses[-1] if clauses else 0 :]
    asked = question.casefold()
    if any(m[0].casefold() not in asked for m in _BEFORE.finditer(lead)):
        return True
    if found := list(_NEGATION.finditer(lead)):
        relative = _RELATIVE.search(lead[: found[-1].start()]) and _VERB.search(lead[found[-1].end() :])
        if not relative and any(m[0].casefold() not in asked for m in found):
            return True
    tail = text[end : end + LEAD_CHARS]
    tail = re.sub(r"^,\s(?=(?:is|was|cannot|can't)\b)", " ", tail)  # "the given answer, 5, is wrong"
    clause = _CLAUSE.search(tail)
    tail = tail[: clause.start()] if clause else tail
    after = _AFTER.search(tail)
    return after is not None and not _RELATIVE.search(tail[: after.start()])


_SUBJECT_OF_REJECTION = re.compile(
    r"[\s)\]}*_\"'”’.:]{0,4}(?:\([^()]{0,40}\)\s?)?(?:,\s?(?=which|but|though|although))?"
    r"(?:(?:which|that|this|but it|but that|but this|though it|项|选项|的|是|为|就是|显然|也)\s?){0,2}"
)


_CJK_REJECTION = re.compile(
    r"[)\s]{0,2}(?=[\u3040-\u9fff])[^,.;!?，。；！？\n、而]{0,40}?(?:不|错|误|非|[排舍删]除|舍去|没|否|ない|ません|違|誤)"
)


def rejected(tail: str) -> bool:
    """Whether the text directly after a value or a letter rejects it: " is wrong", "与题意不符"."""
    if _CJK_REJECTION.match(tail):
        return True
    m = _SUBJECT_OF_REJECTION.match(tail)
    return m is not None and _AFTER.match(tail, m.end()) is not None


_DENIES_NEXT = re.compile(
    r"(?:\bnot|n['’]t|\bcannot|\bnever|≠|\\neq?|!=|不是|并非|不等于|不为|不应为)"
    r"(?:\s(?:be|equal|equal to|simply|exactly))?[\s$:：*]{0,4}$",
    re.IGNORECASE,
)


def boxed_denied(text: str, start: int, end: int) -> bool:
    """Whether the words directly around a box or a tag at text[start:end] deny it: "is not [5]", "[5] is wrong"."""
    return bool(_DENIES_NEXT.search(text[max(0, start - 24) : start])) or rejected(
        re.sub(r"^(?:\}|</\w{2,8}>)[\s$*]{0,3}", " ", text[end : end + LEAD_CHARS])
    )


# Words before "answer is" in its clause that make it another's answer, a supposed or a denied one.
_NOT_ANNOUNCED = re.compile(
    rf"{_NOT}|\b(?:if|when|unless|why|how|wrong|incorrect|false|his|her|their|your|another|possible|example|sample|expected"
    r"|student|user|initial|original|earlier|old|first|alternative|tentative|naive|intuitive|common|typical)\b"
    r"|\b[\w.-]{1,20}['’]s\s+(?:\w{1,12}\s)?$"
    r"|不(?!难|妨)|[没勿别非]|[排舍]除|如果|若|假|未必|老师|同桌|他|她|同学|学生|(?:^|[，。、\s])小[明红刚华丽强军芳亮东兰李王]|太郎|花子|错|误|旧|原来|例|彼|誰|違|誤|例えば|最初|もし|仮",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\b(?:I|we|I'd|We) (?:think|believe|guess|say|suppose|expect|suggest)\b|我(?:们)?(?:认为|觉得|选|说)|by (?:assum"
    r"|suppos)\w+"
)


def announced(text: str, at: int) -> bool:
    """Whether the cue at `at` announces the writer's own answer: not "If the answer is", "Her answer:"."""
    before = text[max(0, at - LEAD_CHARS) : at]
    sentences = [m.end() for m in _SENTENCE.finditer(before)]
    lead = before[sentences[-1] if sentences else 0 :]
    clauses = [m.end() for m in _CLAUSE.finditer(lead) if m[0] != ":"]  # 'One student wrote: "Answer: 5"'
    lead = _OWN.sub("", lead[clauses[-1] if clauses else 0 :])
    return not (any(_frames(lead)) or _NOT_ANNOUNCED.search(lead))


_WRONG = (
    r"(?:not (?:right|correct|possible(?! to)|true|it|the answer)|wrong|incorrect|impossible(?! to)|a mistake|an error"
    r"|mistaken|false|nonsense)"
)
_SUBJECT = (
    r"(?:that|this|it|the (?:above|previous|last|first)(?: answer| result)?|my (?:\w{1,12} )?answer|the answer above)"
)
_RETRACTED = re.compile(
    rf"(?:^|[.!?,;:…—(]\s{{0,2}}|\n\s{{0,4}}|\b(?:but|however|wait|no|actually|oops|hmm|sorry|and|so|because|as|think)[,.!…]{{0,3}}\s)"
    rf"{_SUBJECT}\s?(?:(?:['’]s|is|was|seems|looks|must be|has to be|cannot be|can't be|isn['’]t"
    rf"|wasn['’]t)\s)(?:\w{{1,10}}\s)?{_WRONG}\b"
    rf"|(?:^|[.!?,;:…—(]\s{{0,2}}|\n\s{{0,4}})(?:that|this|it) (?:isn['’]t|wasn['’]t|can['’]t be|cannot be) (?:right"
    rf"|correct|possible|true)\b"
    rf"|,\s(?:which|but (?:that|this|it)) (?:is|was|can(?:not|'t) be|turned out to be) (?:\w{{1,10}}\s)?{_WRONG}\b"
    r"|\bI(?: have|['’]ve)? (?:made|make) an? (?:\w{1,14} )?(?:mistake|error|slip)\b|\b(?:scratch|strike|forget"
    r"|cancel) that\b"
    r"|\bI (?:take (?:that|it|this) back|retract|withdraw|was wrong|am wrong|misread|miscounted|miscalculated"
    r"|misspoke)\b"
    r"|\b(?:disregard|ignore) (?:that|this|the above|my|the previous)\b|(?:^|[.!?]\s|\n\s{0,4})correction\b|\bmy bad\b"
    r"|\blet me (?:redo|recalculate|recompute|reconsider|recount|correct|try again|start over|fix)\b"
    r"|\bon second thoughts?\b"
    r"|(?:^|[.!?]\s|\n\s{0,4})actually,?\s(?:it|this|that|the (?:answer|value|result))"
    r" (?:is|should be|must be|equals)\b"
    r"|,? so (?:it|this|that) (?:is|must be|has to be|can be) (?:discarded|rejected|excluded|dropped|ruled out|wrong)\b"
    r"|\b(?:could|might|may) (?:also|just as well|equally|instead|as well) be\b|\bI change my (?:mind|answer)\b"
    r"|\bI no longer (?:think|believe)\b|\b(?:which|that) contradicts\b"
    r"|(?:^|[。！？，,.\s])(?:不对|不對|错了|算错|等等，|等一下|更正|搞错|我错|修正|收回|我算错|看错|不，)|(?:这|上面|以上|刚才|前面)[^。]{0,8}(?:错|不对|不正确|有误)"
    r"|重新(?:计算|考虑|算|检查)|也(?:可能|有可能)(?:是|选)"
    r"|訂正|(?:これ|それ|上|答え)[はが][^。]{0,6}(?:間違|誤|違い|違う|正しくな)|間違え(?:ました|た)|間違い(?:でした|だ)|待って|(?:^|[。\s])いや[、，]|撤回"
    r"|(?:計算|考え)(?:し)?直|かもしれません。?$|とも考えられ",
    re.IGNORECASE | re.MULTILINE,
)


# Every English retraction holds one of these: looking for them first spares most texts the slow pattern.
_RETRACTS = (
    "not ", "n't", "n’t", "cannot", "wrong", "incorrect", "impossible", "mista", "error", "false", "nonsense", "slip",
    "scratch", "strike", "forget", "cancel", "back", "retract", "withdraw", "misread", "miscounted", "miscalculated",
    "misspoke", "disregard", "ignore", "correction", "my bad", "let me", "second thought", "discarded", "rejected",
    "excluded", "dropped", "ruled out", "could", "might", "may ", "change my", "no longer", "contradicts", "actually",
)  # fmt: skip


def retracted(text: str, at: int) -> bool:
    """Whether the text after position `at` takes back what stands there: "Wait, that is wrong"."""
    tail = text[at + 1 :].lower()
    possible = not tail.isascii() or any(word in tail for word in _RETRACTS)
    return possible and _RETRACTED.search(text, at + 1) is not None

"""C-Eval: Chinese examinations in 52 subjects, four options each; the validation part, whose answers are public."""

from __future__ import annotations

from collections.abc import Mapping

from reflective.tasks.benchmarks.base import Benchmark, Options, Question, first
from reflective.tasks.files.gold import question_text
from reflective.tasks.files.hub import HubSource
from reflective.tasks.files.rows import Row
from reflective.tasks.prompts import SLOT
from reflective.verify.choice import stated_letters

LETTERS = "ABCD"
FOLDER = "subject of the file's folder"  # on the hub a subject is a folder, and its rows do not name it
LINE = (
    "让我们一步一步思考。你的回复的最后一行应遵循以下格式：'ANSWER: $LETTER'（不带引号），"
    "其中 LETTER 是选项 ABCD 中的一个。"
)

SUBJECTS: Mapping[str, str] = {  # as the examinations are called in the question
    "computer_network": "计算机网络",
    "operating_system": "操作系统",
    "computer_architecture": "计算机组成",
    "college_programming": "大学编程",
    "college_physics": "大学物理",
    "college_chemistry": "大学化学",
    "advanced_mathematics": "高等数学",
    "probability_and_statistics": "概率统计",
    "discrete_mathematics": "离散数学",
    "electrical_engineer": "注册电气工程师",
    "metrology_engineer": "注册计量师",
    "high_school_mathematics": "高中数学",
    "high_school_physics": "高中物理",
    "high_school_chemistry": "高中化学",
    "high_school_biology": "高中生物",
    "middle_school_mathematics": "初中数学",
    "middle_school_biology": "初中生物",
    "middle_school_physics": "初中物理",
    "middle_school_chemistry": "初中化学",
    "veterinary_medicine": "兽医学",
    "college_economics": "大学经济学",
    "business_administration": "工商管理",
    "marxism": "马克思主义基本原理",
    "mao_zedong_thought": "毛泽东思想和中国特色社会主义理论体系概论",
    "education_science": "教育学",
    "teacher_qualification": "教师资格",
    "high_school_politics": "高中政治",
    "high_school_geography": "高中地理",
    "middle_school_politics": "初中政治",
    "middle_school_geography": "初中地理",
    "modern_chinese_history": "近代史纲要",
    "ideological_and_moral_cultivation": "思想道德修养与法律基础",
    "logic": "逻辑学",
    "law": "法学",
    "chinese_language_and_literature": "中国语言文学",
    "art_studies": "艺术学",
    "professional_tour_guide": "导游资格",
    "legal_professional": "法律职业资格",
    "high_school_chinese": "高中语文",
    "high_school_history": "高中历史",
    "middle_school_history": "初中历史",
    "civil_servant": "公务员",
    "sports_science": "体育学",
    "plant_protection": "植物保护",
    "basic_medicine": "基础医学",
    "clinical_medicine": "临床医学",
    "urban_and_rural_planner": "注册城乡规划师",
    "accountant": "注册会计师",
    "fire_engineer": "注册消防工程师",
    "environmental_impact_assessment_engineer": "环境影响评价工程师",
    "tax_accountant": "税务师",
    "physician": "医师资格",
}


def read(row: Row, index: int, options: Options) -> Question | None:
    """Either `question` and the options `A` to `D`, or the whole question in `model_input`; `answer` is a letter."""
    subject = str(row.get("sub") or row.get("subject") or row.get(FOLDER) or "")
    if options.subjects and subject not in options.subjects:
        return None
    answer = stated_letters(str(first(row, "answer")))
    if answer is None or answer not in LETTERS:
        raise ValueError(f"the answer is one of {LETTERS}, got {row['answer']!r}")
    metadata = {"subject": subject} if subject in SUBJECTS else {}
    if "model_input" in row:
        return Question(question_text(row["model_input"]).removesuffix(LINE).rstrip(), answer, metadata)
    of = f"关于{SUBJECTS[subject]}考试" if subject in SUBJECTS else "考试"
    listed = "\n".join(f"{letter}. {str(first(row, letter)).strip()}" for letter in LETTERS)
    asked = f"以下是中国{of}的单项选择题，请选出其中的正确答案。\n{question_text(row['question'])}\n{listed}"
    return Question(asked, answer, metadata)


CEVAL = Benchmark(
    name="ceval",
    description="Chinese examinations in 52 subjects, four options",
    kind="choice",
    split="val",
    source=HubSource("ceval/ceval-exam", ("*/val-*.parquet",), "617524a00b307ff6f9933702f724131fe12ca7ce"),
    read=read,
    prompt=f"{SLOT}\n{LINE}",
    prompt_source="the paper's own test file",
    folder_field=FOLDER,
    size=1346,
    options=("subjects",),
)

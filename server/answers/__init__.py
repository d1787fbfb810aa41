"""What the tools answer: every model here is an output schema, and its compact JSON is the text beside it.

The words in an answer are chosen in server/views; here is only its shape. Import the models from this package.
"""

from server.answers.base import Answer, Gain, Noise, Score, rounded, rounded_all
from server.answers.datasets import DatasetLine, DatasetList
from server.answers.memory import Digest, MemoryAnswer
from server.answers.notes import MemoryItem, NoteAnswer, Noted, NoteLine, StudyNotes
from server.answers.studies import (
    BeliefLine,
    Brief,
    FinishAnswer,
    Finished,
    Previous,
    StartedStudy,
    StartLine,
    StudyAnswer,
    StudyLine,
    StudyTrials,
    TrialLine,
)
from server.answers.trials import Retest, TrialAnswer, TrialStatusAnswer, UserComparison

__all__ = [
    "Answer",
    "BeliefLine",
    "Brief",
    "DatasetLine",
    "DatasetList",
    "Digest",
    "FinishAnswer",
    "Finished",
    "Gain",
    "MemoryAnswer",
    "MemoryItem",
    "Noise",
    "NoteAnswer",
    "NoteLine",
    "Noted",
    "Previous",
    "Retest",
    "Score",
    "StartLine",
    "StartedStudy",
    "StudyAnswer",
    "StudyLine",
    "StudyNotes",
    "StudyTrials",
    "TrialAnswer",
    "TrialLine",
    "TrialStatusAnswer",
    "UserComparison",
    "rounded",
    "rounded_all",
]

//! BERT's WordPiece tokenizer.
//!
//! A text is cleaned (control characters dropped, white space made spaces, CJK characters set
//! apart), lower-cased and stripped of accents as the model says, cut at white space and
//! punctuation, and each word is cut into the longest pieces of the vocabulary from the left;
//! pieces that go on a word begin with `##`. A word that cannot be cut, or is longer than 100
//! characters, is `[UNK]`.

use std::collections::HashMap;

use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::error::Result;
use crate::files::ModelFiles;

const VOCABULARY: &str = "vocab.txt";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const LONGEST_WORD: usize = 100;

/// From a text to numbers of a vocabulary.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    numbers: HashMap<String, u32>,
    unknown: u32,
    start: u32,
    end: u32,
    settings: Settings,
}

/// What is done to a text before it is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Settings {
    cleans: bool,
    parts_cjk: bool,
    strips_accents: bool,
    lowers: bool,
}

#[derive(Deserialize)]
struct TokenizerFile {
    normalizer: Option<NormalizerPart>,
    model: ModelPart,
}

#[derive(Deserialize)]
struct NormalizerPart {
    #[serde(rename = "type")]
    kind: String,
    clean_text: Option<bool>,
    handle_chinese_chars: Option<bool>,
    strip_accents: Option<bool>,
    lowercase: Option<bool>,
}

#[derive(Deserialize)]
struct ModelPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: serde_json::Value,
}

#[derive(Deserialize, Default)]
struct ConfigFile {
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
}

impl Tokenizer {
    /// The tokenizer of a model: `vocab.txt` and, for what is done to texts, `tokenizer.json` or
    /// `tokenizer_config.json`; the vocabulary too can be in `tokenizer.json`.
    pub(crate) fn load(files: &mut ModelFiles) -> Result<Self> {
        let whole: Option<TokenizerFile> = files.json(TOKENIZER)?;
        let config: ConfigFile = files.json(TOKENIZER_CONFIG)?.unwrap_or_default();
        let lowers = config.do_lower_case.unwrap_or(true);
        let mut settings = Settings {
            cleans: true,
            parts_cjk: config.tokenize_chinese_chars.unwrap_or(true),
            strips_accents: config.strip_accents.unwrap_or(lowers),
            lowers,
        };
        if let Some(whole) = &whole {
            if whole
                .model
                .kind
                .as_deref()
                .is_some_and(|kind| kind != "WordPiece")
            {
                return Err(files.wrong(TOKENIZER, "its model must be `WordPiece`"));
            }
            if let Some(part) = &whole.normalizer {
                if part.kind != "BertNormalizer" {
                    let reason = format!(
                        "its normalizer is `{}`, but must be `BertNormalizer`",
                        part.kind
                    );
                    return Err(files.wrong(TOKENIZER, reason));
                }
                let lowers = part.lowercase.unwrap_or(true);
                settings = Settings {
                    cleans: part.clean_text.unwrap_or(true),
                    parts_cjk: part.handle_chinese_chars.unwrap_or(true),
                    strips_accents: part.strip_accents.unwrap_or(lowers),
                    lowers,
                };
            }
        }
        let (name, numbers) = match (files.read(VOCABULARY)?, whole) {
            (Some(bytes), _) => {
                let text = String::from_utf8(bytes)
                    .map_err(|error| files.wrong(VOCABULARY, error.to_string()))?;
                let lines = text.lines().enumerate();
                let numbers = lines.map(|(number, word)| (word.to_owned(), number as u32));
                (VOCABULARY, numbers.collect())
            }
            (None, Some(whole)) => {
                let numbers: HashMap<String, u32> = serde_json::from_value(whole.model.vocab)
                    .map_err(|error| files.wrong(TOKENIZER, format!("`model.vocab`: {error}")))?;
                (TOKENIZER, numbers)
            }
            (None, None) => {
                let reason = format!("is not there, and {TOKENIZER} is not either");
                return Err(files.wrong(VOCABULARY, reason));
            }
        };
        let special = |word: &str| {
            let found = numbers.get(word).copied();
            found.ok_or_else(|| files.wrong(name, format!("the vocabulary has no `{word}`")))
        };
        let (unknown, start, end) = (special("[UNK]")?, special("[CLS]")?, special("[SEP]")?);
        Ok(Self {
            unknown,
            start,
            end,
            settings,
            numbers,
        })
    }

    /// One above the largest number.
    pub fn vocabulary(&self) -> usize {
        self.numbers
            .values()
            .max()
            .map_or(0, |&last| last as usize + 1)
    }

    /// The numbers of a text, `[CLS]` and `[SEP]` around it. Words like `[MASK]` have no special
    /// meaning in it.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut numbers = vec![self.start];
        for word in words(&self.settings.normalise(text)) {
            self.cut(&word, &mut numbers);
        }
        numbers.push(self.end);
        numbers
    }

    fn cut(&self, word: &str, numbers: &mut Vec<u32>) {
        let before = numbers.len();
        if word.chars().count() > LONGEST_WORD {
            numbers.push(self.unknown);
            return;
        }
        let mut rest = word;
        while !rest.is_empty() {
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
            let ends: Vec<usize> = ends.collect();
            let prefix = if rest.len() == word.len() { "" } else { "##" };
            let found = ends.iter().rev().find_map(|&end| {
                let number = self.numbers.get(&format!("{prefix}{}", &rest[..end]));
                number.map(|&number| (end, number))
            });
            let Some((end, number)) = found else {
                numbers.truncate(before);
                numbers.push(self.unknown);
                return;
            };
            numbers.push(number);
            rest = &rest[end..];
        }
    }
}

impl Settings {
    fn normalise(self, text: &str) -> String {
        let mut text = text.to_owned();
        if self.cleans {
            text = text.chars().filter_map(cleaned).collect();
        }
        if self.parts_cjk {
            let parted = text.chars().flat_map(|c| match is_cjk(c) {
                true => [Some(' '), Some(c), Some(' ')],
                false => [Some(c), None, None],
            });
            text = parted.flatten().collect();
        }
        if self.strips_accents {
            let decomposed = text.nfd();
            text = decomposed
                .filter(|c| c.general_category() != GeneralCategory::NonspacingMark)
                .collect();
        }
        if self.lowers {
            text = text.chars().flat_map(char::to_lowercase).collect();
        }
        text
    }
}

fn cleaned(c: char) -> Option<char> {
    let is_other = c.general_category_group() == GeneralCategoryGroup::Other;
    match c {
        '\t' | '\n' | '\r' => Some(' '),
        '\u{fffd}' => None,
        _ if is_other => None,
        _ if c.is_whitespace() => Some(' '),
        _ => Some(c),
    }
}

/// The blocks that BERT's own code sets apart (`tokenization.py`, `_is_chinese_char`).
fn is_cjk(c: char) -> bool {
    matches!(c as u32,
        0x4E00..=0x9FFF | 0x3400..=0x4DBF | 0x20000..=0x2A6DF | 0x2A700..=0x2B73F
        | 0x2B740..=0x2B81F | 0x2B820..=0x2CEAF | 0xF900..=0xFAFF | 0x2F800..=0x2FA1F)
}

/// Words between white space; each punctuation character is one.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for run in text.split_whitespace() {
        let mut word = String::new();
        for c in run.chars() {
            let is_mark = c.is_ascii_punctuation()
                || c.general_category_group() == GeneralCategoryGroup::Punctuation;
            if is_mark {
                words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
                words.push(c.to_string());
            } else {
                word.push(c);
            }
        }
        words.extend((!word.is_empty()).then_some(word));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(pieces: &[&str]) -> Tokenizer {
        let pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].iter().chain(pieces);
        let numbers = pieces.enumerate();
        Tokenizer {
            numbers: numbers
                .map(|(number, piece)| ((*piece).to_owned(), number as u32))
                .collect(),
            unknown: 1,
            start: 2,
            end: 3,
            settings: Settings {
                cleans: true,
                parts_cjk: true,
                strips_accents: true,
                lowers: true,
            },
        }
    }

    #[test]
    fn the_longest_piece_from_the_left_is_taken() {
        let pieces = ["sand", "san", "##al", "##d", "##dal", "-", "t", "shirt"];
        let tokenizer = tokenizer(&pieces);
        assert_eq!(tokenizer.encode("Sandal"), [2, 4, 6, 3]);
        assert_eq!(tokenizer.encode("sanddal"), [2, 4, 8, 3]);
        assert_eq!(tokenizer.encode(" T-SHIRT\t"), [2, 10, 9, 11, 3]);
        // The rest cannot be cut, so the whole word is unknown.
        assert_eq!(tokenizer.encode("sandx t"), [2, 1, 10, 3]);
        assert_eq!(tokenizer.encode(""), [2, 3]);
        assert_eq!(tokenizer.encode(&"san".repeat(34)), [2, 1, 3]);
    }

    #[test]
    fn accents_control_characters_and_cjk() {
        let tokenizer = tokenizer(&["cafe", "中", "文", "。", "a"]);
        assert_eq!(tokenizer.encode("Cafe\u{301} CAFÉ"), [2, 4, 4, 3]);
        assert_eq!(tokenizer.encode("中文。"), [2, 5, 6, 7, 3]);
        assert_eq!(
            tokenizer.encode("a\u{200b}\u{0}\u{7f}\u{a0}a"),
            [2, 8, 8, 3]
        );
    }
}

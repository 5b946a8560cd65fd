//! Text to tokens.

use crate::error::Result;
use crate::tree::Source;
use crate::value::Value;

/// A token of a space's text.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token {
    Word(String),
    Number(Value),
    Quoted(String),
    Symbol(&'static str),
    /// An end of line, where a statement may end.
    Line,
    End,
}

const SYMBOLS: [&str; 20] = [
    "..=", "==", "!=", "<=", ">=", "(", ")", "{", "}", ",", ";", ":", "=", "<", ">", "+", "-", "*",
    "/", "%",
];

/// The tokens of a text with their offsets, the last one [`Token::End`].
pub(super) fn tokenize(source: &Source) -> Result<Vec<(Token, usize)>> {
    let text = &source.text;
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if next == '\n' {
            tokens.push((Token::Line, at));
            1
        } else if next.is_whitespace() {
            next.len_utf8()
        } else if next == '#' {
            rest.find('\n').unwrap_or(rest.len())
        } else if next.is_ascii_digit() {
            let end = number_end(rest);
            let number = &rest[..end];
            let value = number
                .parse()
                .map(Value::Int)
                .or_else(|_| number.parse().map(Value::Real))
                .ok()
                .filter(|value| value.as_f64().is_some_and(f64::is_finite))
                .ok_or_else(|| source.error(at, format!("`{number}` is no finite number")))?;
            tokens.push((Token::Number(value), at));
            end
        } else if next == '"' {
            let end = rest[1..]
                .find(['"', '\n'])
                .filter(|end| rest[1 + end..].starts_with('"'))
                .ok_or_else(|| source.error(at, "this quotation does not end on its line"))?;
            tokens.push((Token::Quoted(rest[1..=end].to_owned()), at));
            end + 2
        } else if next.is_alphabetic() || next == '_' {
            let end = rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
                .unwrap_or(rest.len());
            // A hyphen belongs to a word only between letters: `fm-nano`, but `width-1`.
            let word = hyphenated(&rest[..end]);
            tokens.push((Token::Word(word.to_owned()), at));
            word.len()
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push((Token::Symbol(symbol), at));
            symbol.len()
        } else {
            return Err(source.error(at, format!("`{next}` is not part of the language")));
        };
        at += length;
    }
    tokens.push((Token::End, text.len()));
    Ok(tokens)
}

fn hyphenated(word: &str) -> &str {
    let mut end = word.len();
    for (at, _) in word.match_indices('-') {
        let follows_letter = word[at + 1..].starts_with(char::is_alphabetic);
        if !follows_letter {
            end = at;
            break;
        }
    }
    &word[..end]
}

fn number_end(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

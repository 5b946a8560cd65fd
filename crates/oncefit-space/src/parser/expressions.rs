//! Expressions, domains, and the cursor over the tokens.

use super::lexer::Token;
use super::{DEEPEST, Parser};
use crate::error::{Result, SpaceError, suggestion};
use crate::expression::{Expression, Function, Operator, Word};
use crate::tree::{DomainText, KEYWORDS, Written};
use crate::value::Value;

/// Operators in a row, as in `a + b + c`, that are followed.
const LONGEST: usize = 32;

/// Whether the language uses a word itself.
pub(super) fn is_reserved(word: &str) -> bool {
    KEYWORDS.contains(&word)
        || Operator::ALL.iter().any(|(text, _)| *text == word)
        || Function::ALL.iter().any(|(text, _)| *text == word)
}

impl Parser<'_> {
    pub(super) fn arguments(&mut self) -> Result<Vec<Written>> {
        let mut arguments = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            arguments.push(self.expression()?);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(arguments)
    }

    pub(super) fn domain(&mut self) -> Result<DomainText> {
        let unordered = matches!(self.peek(), Token::Word(word) if word == "unordered");
        if unordered {
            self.at += 1;
        }
        if unordered || *self.peek() == Token::Symbol("(") {
            let at = self.offset();
            let values = self.arguments()?;
            if values.is_empty() {
                return Err(self.source.error(at, "a domain has at least one value"));
            }
            return Ok(DomainText::List { values, unordered });
        }
        if matches!(self.peek(), Token::Word(word) if word == "log") {
            self.at += 1;
            let from = self.expression()?;
            self.expect("..=")?;
            let to = self.expression()?;
            self.expect_word("count")?;
            return Ok(DomainText::Log {
                from,
                to,
                count: self.expression()?,
            });
        }
        let from = self.expression()?;
        self.expect("..=")?;
        let to = self.expression()?;
        let step = match self.peek() {
            Token::Word(word) if word == "step" => {
                self.at += 1;
                Some(self.expression()?)
            }
            _ => None,
        };
        Ok(DomainText::Range { from, to, step })
    }

    pub(super) fn expression(&mut self) -> Result<Written> {
        self.binary(1)
    }

    fn binary(&mut self, lowest: u8) -> Result<Written> {
        self.descend()?;
        let mut left = self.primary()?;
        let mut count = 0;
        while let Some(operator) = self.operator().filter(|found| found.precedence() >= lowest) {
            count += 1;
            if count > LONGEST {
                let message =
                    format!("more than {LONGEST} operators in a row; name parts by `let`");
                return Err(self.source.error(self.offset(), message));
            }
            self.at += 1;
            let right = self.binary(operator.precedence() + 1)?;
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operator(&self) -> Option<Operator> {
        let text = match self.peek() {
            Token::Symbol(symbol) => symbol,
            Token::Word(word) => word.as_str(),
            _ => return None,
        };
        Operator::ALL
            .iter()
            .find(|(other, _)| *other == text)
            .map(|(_, operator)| *operator)
    }

    fn primary(&mut self) -> Result<Written> {
        match self.next() {
            (Token::Number(value), _) => Ok(Expression::Constant(value)),
            // A word that stands for itself, such as the value of a decision.
            (Token::Quoted(word), at) => match super::is_label(&word) {
                true => Ok(Expression::Constant(Value::Text(word))),
                false => Err(self.source.error(
                    at,
                    format!("\"{word}\" is no word of letters, digits and `_`, a value is one"),
                )),
            },
            (Token::Symbol("-"), at) => match self.next() {
                (Token::Number(Value::Int(value)), _) => {
                    Ok(Expression::Constant(Value::Int(-value)))
                }
                (Token::Number(Value::Real(value)), _) => {
                    Ok(Expression::Constant(Value::Real(-value)))
                }
                _ => Err(self
                    .source
                    .error(at, "a minus sign stands before a number only")),
            },
            (Token::Symbol("("), _) => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            (Token::Word(word), at) => match word.as_str() {
                "true" => Ok(Expression::Constant(Value::Bool(true))),
                "false" => Ok(Expression::Constant(Value::Bool(false))),
                "if" => {
                    let condition = self.expression()?;
                    self.expect_word("then")?;
                    let then = self.expression()?;
                    self.expect_word("else")?;
                    let otherwise = self.expression()?;
                    Ok(Expression::If(Box::new([condition, then, otherwise])))
                }
                _ if *self.peek() == Token::Symbol("(") => {
                    let found = Function::ALL.iter().find(|(name, _)| *name == word);
                    let (_, function) = found.ok_or_else(|| {
                        let names = Function::ALL.map(|(name, _)| name);
                        let hint = suggestion(&word, names);
                        let message = format!(
                            "`{word}` is no function{hint}; there are {}",
                            names.join(", ")
                        );
                        self.source.error(at, message)
                    })?;
                    Ok(Expression::Call(*function, self.arguments()?))
                }
                "in" => Ok(Expression::Name(Word { text: word, at })),
                _ if KEYWORDS.contains(&word.as_str()) => {
                    Err(self.unexpected(&Token::Word(word), at, "a value"))
                }
                _ => Ok(Expression::Name(Word { text: word, at })),
            },
            (other, at) => Err(self.unexpected(&other, at, "a value")),
        }
    }

    pub(super) fn descend(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEEPEST {
            let at = self.offset();
            return Err(self
                .source
                .error(at, format!("nesting is deeper than {DEEPEST} levels")));
        }
        Ok(())
    }

    pub(super) fn next_is_block(&mut self) -> bool {
        let mark = self.at;
        self.skip_lines();
        let found = *self.peek() == Token::Symbol("{");
        if !found {
            self.at = mark;
        }
        found
    }

    pub(super) fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    pub(super) fn offset(&self) -> usize {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    pub(super) fn next(&mut self) -> (Token, usize) {
        let token = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        self.at += 1;
        token
    }

    pub(super) fn skip_lines(&mut self) {
        while *self.peek() == Token::Line {
            self.at += 1;
        }
    }

    pub(super) fn skip_separators(&mut self) {
        while matches!(self.peek(), Token::Line | Token::Symbol(";")) {
            self.at += 1;
        }
    }

    /// Takes a symbol, if it is next; lines may end before it.
    pub(super) fn take(&mut self, symbol: &'static str) -> bool {
        let mark = self.at;
        self.skip_lines();
        let found = *self.peek() == Token::Symbol(symbol);
        self.at = if found { self.at + 1 } else { mark };
        found
    }

    pub(super) fn expect(&mut self, symbol: &'static str) -> Result<()> {
        if self.take(symbol) {
            return Ok(());
        }
        let (token, at) = self.next();
        Err(self.unexpected(&token, at, &format!("`{symbol}`")))
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<()> {
        match self.next() {
            (Token::Word(found), _) if found == word => Ok(()),
            (other, at) => Err(self.unexpected(&other, at, &format!("`{word}`"))),
        }
    }

    pub(super) fn word(&mut self, what: &str) -> Result<String> {
        if !matches!(self.peek(), Token::Word(_)) {
            self.skip_lines();
        }
        match self.next() {
            (Token::Word(word), _) => Ok(word),
            (other, at) => Err(self.unexpected(&other, at, what)),
        }
    }

    /// A word that the language does not use itself.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        if matches!(self.peek(), Token::Line) {
            self.skip_lines();
        }
        let at = self.offset();
        let word = self.word(what)?;
        super::legal_name(&word, what).map_err(|message| self.source.error(at, message))?;
        Ok(word)
    }

    pub(super) fn unexpected(&self, token: &Token, at: usize, expected: &str) -> SpaceError {
        let found = match token {
            Token::Word(word) => format!("`{word}`"),
            Token::Number(value) => format!("`{value}`"),
            Token::Quoted(text) => format!("\"{text}\""),
            Token::Symbol(symbol) => format!("`{symbol}`"),
            Token::Line => "the end of the line".into(),
            Token::End => "the end of the text".into(),
        };
        self.source
            .error(at, format!("expected {expected}, found {found}"))
    }
}

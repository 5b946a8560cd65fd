//! Text to tree. Every error shows its place and says what would be legal.

use crate::error::{Result, SpaceError, suggestion};
use crate::expression::{Expression, FUNCTIONS, Operator};
use crate::tree::{
    Block, Definition, DomainText, Fallback, KEYWORDS, Node, OPS, Source, Statement, Tree,
};
use crate::value::Value;

#[derive(Clone, PartialEq, Debug)]
enum Token {
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

/// Blocks within blocks, and parentheses within parentheses, that are followed.
const DEEPEST: usize = 64;

pub(crate) fn parse(text: &str, file: &str) -> Result<Tree> {
    let source = Source {
        file: file.to_owned(),
        text: text.to_owned(),
    };
    let tokens = tokenize(&source)?;
    let mut parser = Parser {
        source: &source,
        tokens,
        at: 0,
        depth: 0,
        definitions: Vec::new(),
    };
    parser.file()
}

impl Source {
    /// An error at an offset of the text.
    pub fn error(&self, at: usize, message: String) -> SpaceError {
        let at = at.min(self.text.len());
        let start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        SpaceError::Text {
            place: (
                self.file.clone(),
                self.text[..at].matches('\n').count() + 1,
                self.text[start..at].chars().count() + 1,
            ),
            line: self.text[start..]
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
            message,
        }
    }
}

fn tokenize(source: &Source) -> Result<Vec<(Token, usize)>> {
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
                .map_err(|_| source.error(at, format!("`{number}` is no number")))?;
            tokens.push((Token::Number(value), at));
            end
        } else if next == '"' {
            let end = rest[1..]
                .find(['"', '\n'])
                .filter(|end| rest[1 + end..].starts_with('"'))
                .ok_or_else(|| {
                    source.error(at, "this quotation does not end on its line".into())
                })?;
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

struct Parser<'s> {
    source: &'s Source,
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    definitions: Vec<Definition>,
}

impl Parser<'_> {
    fn file(&mut self) -> Result<Tree> {
        self.skip_lines();
        self.expect_word("space")?;
        let name = self.word("the name of the space")?;
        let mut parameters = Vec::new();
        if self.take("(") {
            while !self.take(")") {
                let name = self.word("the name of a parameter")?;
                self.expect("=")?;
                let at = self.offset();
                let value = self.expression()?;
                let value = value
                    .evaluate(&|word| Some(Value::Text(word.to_owned())))
                    .map_err(|error| self.source.error(at, error.message))?;
                parameters.push((name, value));
                if !self.take(",") {
                    self.expect(")")?;
                    break;
                }
            }
        }
        let mut body = Vec::new();
        let mut fixes = Vec::new();
        loop {
            self.skip_separators();
            match self.peek() {
                Token::End => break,
                Token::Word(word) if word == "define" => {
                    self.at += 1;
                    let definition = self.definition()?;
                    self.definitions.push(definition);
                }
                Token::Word(word) if word == "fix" => {
                    self.at += 1;
                    fixes.push(self.fix()?);
                }
                _ => body.push(self.statement()?),
            }
        }
        Ok(Tree {
            name,
            parameters,
            definitions: std::mem::take(&mut self.definitions),
            body,
            fixes,
            source: self.source.clone(),
        })
    }

    fn definition(&mut self) -> Result<Definition> {
        let at = self.offset();
        let name = self.word("the name of the template")?;
        let is_taken = OPS.iter().any(|op| op.name == name)
            || self
                .definitions
                .iter()
                .any(|definition| definition.name == name)
            || KEYWORDS.contains(&name.as_str());
        if is_taken {
            return Err(self
                .source
                .error(at, format!("`{name}` is defined already")));
        }
        let mut parameters = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            parameters.push(self.word("the name of a parameter")?);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(Definition {
            name,
            parameters,
            body: self.block()?,
        })
    }

    fn fix(&mut self) -> Result<(String, Vec<Value>)> {
        let name = match self.next() {
            (Token::Word(word), _) | (Token::Quoted(word), _) => word,
            (other, at) => {
                return Err(self.unexpected(&other, at, "the name or path of a decision"));
            }
        };
        self.expect_word("in")?;
        self.expect("(")?;
        let mut values = Vec::new();
        while !self.take(")") {
            let at = self.offset();
            let value = self.expression()?;
            let word = |word: &str| Some(Value::Text(word.to_owned()));
            values.push(
                value
                    .evaluate(&word)
                    .map_err(|error| self.source.error(at, error.message))?,
            );
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok((name, values))
    }

    fn block(&mut self) -> Result<Block> {
        self.descend()?;
        self.skip_lines();
        self.expect("{")?;
        let mut block = Vec::new();
        loop {
            self.skip_separators();
            if self.take("}") {
                break;
            }
            if *self.peek() == Token::End {
                let at = self.offset();
                return Err(self
                    .source
                    .error(at, "the text ends inside a block; a `}` is missing".into()));
            }
            block.push(self.statement()?);
        }
        self.depth -= 1;
        Ok(block)
    }

    fn statement(&mut self) -> Result<Statement> {
        let at = self.offset();
        if let Token::Word(word) = self.peek().clone() {
            match word.as_str() {
                "decide" => {
                    self.at += 1;
                    let name = self.word("the name of the decision")?;
                    self.expect_word("in")?;
                    return Ok(Statement::Decide {
                        name,
                        domain: self.domain()?,
                        at,
                    });
                }
                "let" => {
                    self.at += 1;
                    let name = self.word("the name of the value")?;
                    self.expect("=")?;
                    return Ok(Statement::Let {
                        name,
                        value: self.expression()?,
                    });
                }
                "define" | "fix" => {
                    let message = format!("`{word}` stands at the top level of a space only");
                    return Err(self.source.error(at, message));
                }
                _ => {}
            }
            if self.tokens.get(self.at + 1).map(|token| &token.0) == Some(&Token::Symbol(":")) {
                self.at += 2;
                let node = self.node()?;
                return Ok(Statement::Node {
                    label: Some(word),
                    node,
                    at,
                });
            }
        }
        Ok(Statement::Node {
            label: None,
            node: self.node()?,
            at,
        })
    }

    fn node(&mut self) -> Result<Node> {
        let at = self.offset();
        let word = self.word("an operation, a block or a template")?;
        match word.as_str() {
            "input" => {
                let [height, width, channels] = <[Expression; 3]>::try_from(self.arguments()?)
                    .map_err(|_| {
                        self.source
                            .error(at, "`input` takes height, width and channels".into())
                    })?;
                Ok(Node::Input([height, width, channels]))
            }
            "seq" => Ok(Node::Seq(self.block()?)),
            "residual" => Ok(Node::Residual(self.block()?)),
            "gate" => Ok(Node::Gate(self.block()?)),
            "sum" => {
                let mut branches = vec![self.block()?, self.block()?];
                while self.next_is_block() {
                    branches.push(self.block()?);
                }
                Ok(Node::Sum(branches))
            }
            "if" => {
                let condition = self.expression()?;
                let then = self.block()?;
                let mark = self.at;
                self.skip_lines();
                let has_else = matches!(self.peek(), Token::Word(word) if word == "else");
                let otherwise = if has_else {
                    self.at += 1;
                    self.block()?
                } else {
                    self.at = mark;
                    Vec::new()
                };
                Ok(Node::If {
                    condition,
                    then,
                    otherwise,
                })
            }
            "optional" => {
                let name = self.word("the name of the decision")?;
                Ok(Node::Optional {
                    name,
                    body: self.block()?,
                })
            }
            "choice" => self.choice(),
            "repeat" => {
                let tied = matches!(self.peek(), Token::Word(word) if word == "tied");
                if tied {
                    self.at += 1;
                }
                let name = self.word("the name of the decision")?;
                self.expect_word("in")?;
                let domain = self.domain()?;
                let index = match self.peek() {
                    Token::Word(word) if word == "as" => {
                        self.at += 1;
                        Some(self.word("the name of the index")?)
                    }
                    _ => None,
                };
                Ok(Node::Repeat {
                    tied,
                    name,
                    domain,
                    index,
                    body: self.block()?,
                })
            }
            _ => self.operation(&word, at),
        }
    }

    fn choice(&mut self) -> Result<Node> {
        let name = self.word("the name of the decision")?;
        self.descend()?;
        self.expect("{")?;
        let mut branches: Vec<(String, Block)> = Vec::new();
        loop {
            self.skip_separators();
            if self.take("}") {
                break;
            }
            let at = self.offset();
            let label = self.word("the label of a branch, or `}`")?;
            if branches.iter().any(|(other, _)| *other == label) {
                return Err(self
                    .source
                    .error(at, format!("there is a branch `{label}` already")));
            }
            self.expect(":")?;
            let block = match self.next_is_block() {
                true => self.block()?,
                false => {
                    let at = self.offset();
                    vec![Statement::Node {
                        label: None,
                        node: self.node()?,
                        at,
                    }]
                }
            };
            branches.push((label, block));
        }
        self.depth -= 1;
        if branches.is_empty() {
            let at = self.offset();
            return Err(self
                .source
                .error(at, format!("choice `{name}` has no branches")));
        }
        Ok(Node::Choice { name, branches })
    }

    fn operation(&mut self, word: &str, at: usize) -> Result<Node> {
        if let Some(definition) = self.definitions.iter().position(|found| found.name == word) {
            let arguments = self.arguments()?;
            let wanted = &self.definitions[definition].parameters;
            if arguments.len() != wanted.len() {
                let message = format!(
                    "`{word}` takes {} arguments ({}), this gives {}",
                    wanted.len(),
                    wanted.join(", "),
                    arguments.len()
                );
                return Err(self.source.error(at, message));
            }
            return Ok(Node::Call {
                definition,
                arguments,
            });
        }
        let Some(kind) = OPS.iter().find(|op| op.name == word) else {
            let templates: Vec<&str> = self
                .definitions
                .iter()
                .map(|definition| definition.name.as_str())
                .collect();
            let blocks = [
                "seq", "residual", "gate", "sum", "if", "choice", "optional", "repeat",
            ];
            let legal: Vec<&str> = OPS
                .iter()
                .map(|op| op.name)
                .chain(blocks)
                .chain(["decide", "let", "input", "define", "fix"])
                .chain(templates)
                .collect();
            let hint = suggestion(word, legal.iter().copied());
            let message = format!(
                "`{word}` is not known{hint}; legal here: {}",
                legal.join(", ")
            );
            return Err(self.source.error(at, message));
        };
        let mut arguments = vec![None; kind.arguments.len()];
        if self.take("(") {
            let mut position = 0;
            while !self.take(")") {
                let at = self.offset();
                let index = match self.named_argument() {
                    Some(name) => {
                        let found = kind.arguments.iter().position(|(other, _)| *other == name);
                        found.ok_or_else(|| {
                            let names: Vec<&str> =
                                kind.arguments.iter().map(|(name, _)| *name).collect();
                            let hint = suggestion(&name, names.iter().copied());
                            let message = format!(
                                "`{word}` has no argument `{name}`{hint}; legal: {}",
                                names.join(", ")
                            );
                            self.source.error(at, message)
                        })?
                    }
                    None => position,
                };
                if index >= arguments.len() {
                    let message = format!("`{word}` takes {} arguments at most", arguments.len());
                    return Err(self.source.error(at, message));
                }
                if arguments[index].is_some() {
                    let message = format!("`{}` is given twice", kind.arguments[index].0);
                    return Err(self.source.error(at, message));
                }
                arguments[index] = Some(self.expression()?);
                position = index + 1;
                if !self.take(",") {
                    self.expect(")")?;
                    break;
                }
            }
        }
        for ((name, default), argument) in kind.arguments.iter().zip(&arguments) {
            if *default == Fallback::Required && argument.is_none() {
                return Err(self
                    .source
                    .error(at, format!("`{word}` needs its argument `{name}`")));
            }
        }
        Ok(Node::Op { kind, arguments })
    }

    /// The name of an argument that is given as `name = value`.
    fn named_argument(&mut self) -> Option<String> {
        let next = self.tokens.get(self.at + 1).map(|token| &token.0);
        match (self.peek().clone(), next) {
            (Token::Word(name), Some(Token::Symbol("="))) => {
                self.at += 2;
                Some(name)
            }
            _ => None,
        }
    }

    fn arguments(&mut self) -> Result<Vec<Expression>> {
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

    fn domain(&mut self) -> Result<DomainText> {
        let unordered = matches!(self.peek(), Token::Word(word) if word == "unordered");
        if unordered {
            self.at += 1;
        }
        if unordered || *self.peek() == Token::Symbol("(") {
            let at = self.offset();
            let values = self.arguments()?;
            if values.is_empty() {
                return Err(self
                    .source
                    .error(at, "a domain has at least one value".into()));
            }
            return Ok(DomainText::List { values, unordered });
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

    fn expression(&mut self) -> Result<Expression> {
        self.binary(1)
    }

    fn binary(&mut self, lowest: u8) -> Result<Expression> {
        self.descend()?;
        let mut left = self.primary()?;
        while let Some(operator) = self.operator().filter(|found| found.precedence() >= lowest) {
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

    fn primary(&mut self) -> Result<Expression> {
        match self.next() {
            (Token::Number(value), _) => Ok(Expression::Constant(value)),
            (Token::Symbol("-"), at) => match self.next() {
                (Token::Number(Value::Int(value)), _) => {
                    Ok(Expression::Constant(Value::Int(-value)))
                }
                (Token::Number(Value::Real(value)), _) => {
                    Ok(Expression::Constant(Value::Real(-value)))
                }
                _ => Err(self
                    .source
                    .error(at, "a minus sign stands before a number only".into())),
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
                    let function =
                        FUNCTIONS
                            .iter()
                            .find(|name| **name == word)
                            .ok_or_else(|| {
                                let hint = suggestion(&word, FUNCTIONS);
                                let legal = FUNCTIONS.join(", ");
                                let message =
                                    format!("`{word}` is no function{hint}; there are {legal}");
                                self.source.error(at, message)
                            })?;
                    Ok(Expression::Call(function, self.arguments()?))
                }
                _ if KEYWORDS.contains(&word.as_str()) => {
                    Err(self.unexpected(&Token::Word(word), at, "a value"))
                }
                _ => Ok(Expression::Name(word, at)),
            },
            (other, at) => Err(self.unexpected(&other, at, "a value")),
        }
    }

    fn descend(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEEPEST {
            let at = self.offset();
            return Err(self
                .source
                .error(at, format!("nesting is deeper than {DEEPEST} levels")));
        }
        Ok(())
    }

    fn next_is_block(&mut self) -> bool {
        let mark = self.at;
        self.skip_lines();
        let found = *self.peek() == Token::Symbol("{");
        if !found {
            self.at = mark;
        }
        found
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn offset(&self) -> usize {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> (Token, usize) {
        let token = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        self.at += 1;
        token
    }

    fn skip_lines(&mut self) {
        while *self.peek() == Token::Line {
            self.at += 1;
        }
    }

    fn skip_separators(&mut self) {
        while matches!(self.peek(), Token::Line | Token::Symbol(";")) {
            self.at += 1;
        }
    }

    /// Takes a symbol, if it is next; lines may end before it.
    fn take(&mut self, symbol: &'static str) -> bool {
        let mark = self.at;
        self.skip_lines();
        let found = *self.peek() == Token::Symbol(symbol);
        self.at = if found { self.at + 1 } else { mark };
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<()> {
        if self.take(symbol) {
            return Ok(());
        }
        let (token, at) = self.next();
        Err(self.unexpected(&token, at, &format!("`{symbol}`")))
    }

    fn expect_word(&mut self, word: &str) -> Result<()> {
        match self.next() {
            (Token::Word(found), _) if found == word => Ok(()),
            (other, at) => Err(self.unexpected(&other, at, &format!("`{word}`"))),
        }
    }

    fn word(&mut self, what: &str) -> Result<String> {
        if !matches!(self.peek(), Token::Word(_)) {
            self.skip_lines();
        }
        match self.next() {
            (Token::Word(word), _) => Ok(word),
            (other, at) => Err(self.unexpected(&other, at, what)),
        }
    }

    fn unexpected(&self, token: &Token, at: usize, expected: &str) -> SpaceError {
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

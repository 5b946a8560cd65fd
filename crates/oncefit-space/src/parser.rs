//! Text to tree. Every error shows its place and says what would be legal.

mod expressions;
mod lexer;

use crate::error::{Result, suggestion};
use crate::space::Space;
use crate::tree::{
    Argument, Block, Definition, Fallback, Fix, Node, OPS, Parameter, SettingText, Source,
    Statement, Tree, Written,
};
use crate::value::Value;
use lexer::{Token, tokenize};

/// Blocks within blocks, and parentheses within parentheses, that are followed.
const DEEPEST: usize = 64;

/// Blocks of one `permute`: 120 orders.
const MOST_PERMUTED: usize = 5;

/// Words that open a statement.
const OPENERS: [&str; 20] = [
    "input", "settings", "seq", "residual", "gate", "sum", "concat", "dense", "permute", "if",
    "choice", "optional", "repeat", "decide", "let", "define", "fix", "import", "read", "nothing",
];

/// Whether `text` is one word, as a label is, and begins no statement before its colon.
pub(crate) fn is_label(text: &str) -> bool {
    let source = Source {
        file: String::new(),
        text: text.to_owned(),
    };
    let tokens = tokenize(&source).unwrap_or_default();
    let is_word = matches!(&tokens[..], [(Token::Word(word), _), _] if word == text);
    is_word && !["decide", "let", "define", "fix", "import"].contains(&text)
}

/// Checks a name that somebody gives to a value, a decision or a template; `what` it is.
///
/// # Errors
/// The message.
pub(crate) fn legal_name(text: &str, what: &str) -> std::result::Result<(), String> {
    if expressions::is_reserved(text) {
        return Err(format!(
            "`{text}` is a word of the language, {what} cannot be that"
        ));
    }
    match is_label(text) {
        true => Ok(()),
        false => Err(format!(
            "`{text}` is no word of letters, digits and `_`, {what} is one"
        )),
    }
}

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
        defining: false,
        in_settings: false,
    };
    parser.file()
}

struct Parser<'s> {
    source: &'s Source,
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
    definitions: Vec<Definition>,
    /// Whether the body of the last definition is being read.
    defining: bool,
    /// Whether a block of training settings is being read.
    in_settings: bool,
}

impl Parser<'_> {
    fn file(&mut self) -> Result<Tree> {
        self.skip_lines();
        self.expect_word("space")?;
        let name = self.word("the name of the space")?;
        let mut parameters = Vec::new();
        if self.take("(") {
            while !self.take(")") {
                let name = self.name("the name of a parameter")?;
                self.expect("=")?;
                parameters.push((name, self.constant()?));
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
                    self.definition()?;
                }
                Token::Word(word) if word == "fix" => {
                    self.at += 1;
                    fixes.push(self.fix()?);
                }
                Token::Word(word) if word == "import" => {
                    self.at += 1;
                    self.import()?;
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

    /// An expression without names; words stand for themselves.
    fn constant(&mut self) -> Result<Value> {
        let at = self.offset();
        let value = self.expression()?;
        value
            .evaluate(&|word| Value::Text(word.text.clone()))
            .map_err(|message| self.source.error(at, message))
    }

    fn definition(&mut self) -> Result<()> {
        let at = self.offset();
        let name = self.name("the name of the template")?;
        let is_taken = OPS.iter().any(|op| op.name == name)
            || self
                .definitions
                .iter()
                .any(|definition| definition.name == name);
        if is_taken {
            return Err(self
                .source
                .error(at, format!("`{name}` is defined already")));
        }
        let mut parameters = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            let is_tensor = self.take_read();
            let name = self.name("the name of a parameter")?;
            parameters.push(Parameter { name, is_tensor });
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        // It is known within its own body: a template may use itself, under a label.
        self.definitions.push(Definition {
            name,
            parameters,
            body: Vec::new(),
        });
        self.defining = true;
        let body = self.block()?;
        self.defining = false;
        if let Some(definition) = self.definitions.last_mut() {
            definition.body = body;
        }
        Ok(())
    }

    /// `import mbconv from fm-nano`: a family's template and those that it uses.
    fn import(&mut self) -> Result<()> {
        let at = self.offset();
        let template = self.word("the name of a template")?;
        self.expect_word("from")?;
        let family_at = self.offset();
        let family = self.word("the name of a family")?;
        let found = Space::builtin(&family)
            .map_err(|error| self.source.error(family_at, error.to_string()))?;
        found
            .tree()
            .import_into(&template, &mut self.definitions, at)
            .map_err(|message| self.source.error(at, message))?;
        Ok(())
    }

    fn fix(&mut self) -> Result<Fix> {
        let place = self.offset();
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
            values.push(self.constant()?);
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        if values.is_empty() {
            let message = format!("decision `{name}` needs at least one value");
            return Err(self.source.error(place, message));
        }
        let at = Some(place);
        Ok(Fix { name, values, at })
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
                    .error(at, "the text ends inside a block; a `}` is missing"));
            }
            block.push(self.statement()?);
        }
        self.depth -= 1;
        Ok(block)
    }

    fn statement(&mut self) -> Result<Statement> {
        let at = self.offset();
        if let Token::Word(word) = self.peek().clone() {
            if self.in_settings && !matches!(word.as_str(), "let" | "if") {
                return self.setting();
            }
            match word.as_str() {
                "decide" => {
                    self.at += 1;
                    let name = self.name("the name of the decision")?;
                    self.expect_word("in")?;
                    return Ok(Statement::Decide {
                        name,
                        domain: self.domain()?,
                        at,
                    });
                }
                "let" => {
                    self.at += 1;
                    let name = self.name("the name of the value")?;
                    self.expect("=")?;
                    return Ok(Statement::Let {
                        name,
                        value: self.expression()?,
                        at,
                    });
                }
                "define" | "fix" | "import" => {
                    let message = format!("`{word}` stands at the top level of a space only");
                    return Err(self.source.error(at, message));
                }
                _ => {}
            }
            if self.tokens.get(self.at + 1).map(|token| &token.0) == Some(&Token::Symbol(":")) {
                self.at += 2;
                let node = self.node()?;
                if matches!(node, Node::Read(_) | Node::Nothing) {
                    let message = "`read` and `nothing` take no label";
                    return Err(self.source.error(at, message));
                }
                return Ok(Statement::Node {
                    label: Some(word),
                    node,
                    at,
                });
            }
        }
        let node = self.node()?;
        let is_itself = self.defining
            && matches!(node, Node::Call { definition, .. } if definition + 1 == self.definitions.len());
        if is_itself {
            let message = "a template that uses itself does so under a label, as in `inner: …`, and \
                           inside an `if` that ends it";
            return Err(self.source.error(at, message));
        }
        Ok(Statement::Node {
            label: None,
            node,
            at,
        })
    }

    /// `name = domain`, or `name = expression`.
    fn setting(&mut self) -> Result<Statement> {
        let at = self.offset();
        if self.tokens.get(self.at + 1).map(|token| &token.0) != Some(&Token::Symbol("=")) {
            let message =
                "a block of settings has `name = values`, `name = expression`, `let` and `if`";
            return Err(self.source.error(at, message));
        }
        let name = self.name("the name of a setting")?;
        self.expect("=")?;
        let start = self.at;
        let decides = match self.peek() {
            Token::Symbol("(") => true,
            Token::Word(word) if matches!(word.as_str(), "unordered" | "log") => true,
            _ => {
                self.expression()?;
                *self.peek() == Token::Symbol("..=")
            }
        };
        self.at = start;
        let value = match decides {
            true => SettingText::Decided(self.domain()?),
            false => SettingText::Computed(self.expression()?),
        };
        Ok(Statement::Setting { name, value, at })
    }

    /// A block of settings, each of which a member has once at most.
    fn settings(&mut self) -> Result<Node> {
        self.in_settings = true;
        let block = self.block()?;
        self.in_settings = false;
        self.settings_are_new(&block, &mut Vec::new())?;
        Ok(Node::Settings(block))
    }

    fn settings_are_new<'b>(&self, block: &'b Block, known: &mut Vec<&'b str>) -> Result<()> {
        for statement in block {
            match statement {
                Statement::Setting { name, at, .. } => {
                    if known.contains(&name.as_str()) {
                        let message = format!("setting `{name}` is given twice");
                        return Err(self.source.error(*at, message));
                    }
                    known.push(name);
                }
                Statement::Node {
                    node:
                        Node::If {
                            then, otherwise, ..
                        },
                    ..
                } => {
                    let mut other = known.clone();
                    self.settings_are_new(then, known)?;
                    self.settings_are_new(otherwise, &mut other)?;
                    known.extend(other);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self) -> Result<Node> {
        let at = self.offset();
        let word = self.word("an operation, a block or a template")?;
        match word.as_str() {
            "input" => {
                let [height, width, channels] = <[Written; 3]>::try_from(self.arguments()?)
                    .map_err(|_| {
                        self.source
                            .error(at, "`input` takes height, width and channels")
                    })?;
                Ok(Node::Input([height, width, channels]))
            }
            "settings" => self.settings(),
            "seq" => Ok(Node::Seq(self.block()?)),
            "residual" => Ok(Node::Residual(self.block()?)),
            "gate" => Ok(Node::Gate(self.block()?)),
            "dense" => Ok(Node::Dense(self.block()?)),
            "sum" => Ok(Node::Sum(self.blocks()?)),
            "concat" => Ok(Node::Concat(self.blocks()?)),
            "read" => Ok(Node::Read(self.word("the label of a node")?)),
            "nothing" => Ok(Node::Nothing),
            "permute" => {
                let name = self.name("the name of the decision")?;
                let blocks = self.blocks()?;
                if blocks.len() > MOST_PERMUTED {
                    let message = format!(
                        "`permute` takes from 2 to {MOST_PERMUTED} blocks, this has {}",
                        blocks.len()
                    );
                    return Err(self.source.error(at, message));
                }
                Ok(Node::Permute { name, blocks })
            }
            "if" => {
                let condition = self.expression()?;
                let then = self.block()?;
                let mark = self.at;
                self.skip_lines();
                let has_else = matches!(self.peek(), Token::Word(word) if word == "else");
                let otherwise = if has_else {
                    self.at += 1;
                    self.otherwise()?
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
                let name = self.name("the name of the decision")?;
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
                let name = self.name("the name of the decision")?;
                self.expect_word("in")?;
                let domain = self.domain()?;
                let index = match self.peek() {
                    Token::Word(word) if word == "as" => {
                        self.at += 1;
                        Some(self.name("the name of the index")?)
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

    /// What follows `else`: a block, or another `if`.
    fn otherwise(&mut self) -> Result<Block> {
        let at = self.offset();
        if !matches!(self.peek(), Token::Word(word) if word == "if") {
            return self.block();
        }
        self.descend()?;
        let node = self.node()?;
        self.depth -= 1;
        let label = None;
        Ok(vec![Statement::Node { label, node, at }])
    }

    /// Two or more blocks.
    fn blocks(&mut self) -> Result<Vec<Block>> {
        let mut blocks = vec![self.block()?, self.block()?];
        while self.next_is_block() {
            blocks.push(self.block()?);
        }
        Ok(blocks)
    }

    fn choice(&mut self) -> Result<Node> {
        let name = self.name("the name of the decision")?;
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
            let mut arguments = Vec::new();
            let mut places = Vec::new();
            self.expect("(")?;
            while !self.take(")") {
                places.push(self.offset());
                arguments.push(match self.take_read() {
                    true => Argument::Tensor(self.word("the label of a node")?),
                    false => Argument::Value(self.expression()?),
                });
                if !self.take(",") {
                    self.expect(")")?;
                    break;
                }
            }
            let wanted = &self.definitions[definition];
            let list = wanted.parameter_list();
            if arguments.len() != wanted.parameters.len() {
                let message = format!(
                    "`{word}` takes {} arguments ({list}), this gives {}",
                    wanted.parameters.len(),
                    arguments.len()
                );
                return Err(self.source.error(at, message));
            }
            for ((parameter, argument), at) in wanted.parameters.iter().zip(&arguments).zip(places)
            {
                let is_tensor = matches!(argument, Argument::Tensor(_));
                if parameter.is_tensor == is_tensor {
                    continue;
                }
                let message = match is_tensor {
                    false => format!(
                        "argument `{}` of `{word}` is a tensor, given as `read LABEL`; `{word}` takes ({list})",
                        parameter.name
                    ),
                    true => format!(
                        "argument `{}` of `{word}` is a value, not a tensor; `{word}` takes ({list})",
                        parameter.name
                    ),
                };
                return Err(self.source.error(at, message));
            }
            return Ok(Node::Call {
                definition,
                arguments,
            });
        }
        let Some(kind) = OPS.iter().find(|op| op.name == word) else {
            let is_definition = |pair: &[(Token, usize)]| matches!(pair, [(Token::Word(define), _), (Token::Word(name), _)] if define == "define" && name == word);
            if self.tokens[self.at..].windows(2).any(is_definition) {
                let message = format!(
                    "`{word}` is defined further down; templates are defined before they are used, and two cannot use each other"
                );
                return Err(self.source.error(at, message));
            }
            let templates: Vec<&str> = self
                .definitions
                .iter()
                .map(|definition| definition.name.as_str())
                .collect();
            let legal: Vec<&str> = OPS
                .iter()
                .map(|op| op.name)
                .chain(OPENERS)
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
                            let hint = match (word, name.as_str()) {
                                ("conv", "transform") => {
                                    ": only `depthwise` makes small kernels by learnt matrices, a `conv` has the centre of its largest kernel".to_owned()
                                }
                                _ => suggestion(&name, names.iter().copied()),
                            };
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

    /// Takes the word that marks a tensor among parameters and arguments, if it is next.
    fn take_read(&mut self) -> bool {
        self.skip_lines();
        let is_read = matches!(self.peek(), Token::Word(word) if word == "read");
        self.at += usize::from(is_read);
        is_read
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
}

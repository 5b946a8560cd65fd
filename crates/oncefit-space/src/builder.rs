//! Spaces written in Rust: the typed twin of the text, with one meaning.
//!
//! A [`SpaceBuilder`] takes parameters and templates, then the network as [`Block`]s of operations.
//! Decisions are [`Term`]s: they are used where they are known, as in a text, and a decision used
//! elsewhere is an error that names it. What is built is printed and read as any text is, so a
//! built space and its text have the same hash, members and errors.
//!
//! ```
//! use oncefit_space::builder::SpaceBuilder;
//! use oncefit_space::{Activation, Space};
//!
//! let mut tiny = SpaceBuilder::new("tiny");
//! let classes = tiny.parameter("classes", 10);
//! let unit = tiny.define("unit", ["width"], |unit, [width]| {
//!     let kernel = unit.decide("kernel", [3, 5, 7]);
//!     unit.residual(|body| {
//!         body.depthwise(kernel).transform(true);
//!         body.batch_norm();
//!         body.conv(width);
//!     });
//! });
//! let space = tiny.build(|net| {
//!     let width = net.decide("width", [8, 16]);
//!     net.input(28, 28, 1);
//!     net.label("stem").conv(&width).kernel(3).stride(2);
//!     net.activation(Activation::Relu);
//!     net.label("body").repeat("depth", 1..=2).of(|copy| copy.call(&unit, [&width]));
//!     net.global_average_pool();
//!     net.linear(&classes);
//! })?;
//!
//! assert_eq!(space.count()?, 24u32.into()); // 2 widths · (3 + 3²)
//! assert_eq!(space.largest()?.graph().macs(), 436_064);
//! assert_eq!(Space::parse(&space.to_text(), "tiny.space")?.hash(), space.hash());
//! # Ok::<(), oncefit_space::SpaceError>(())
//! ```

mod operations;
mod terms;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::error::{Result, SpaceError};
use crate::expression::{Expression, Word};
use crate::parser::{is_label, legal_name, parse};
use crate::space::Space;
use crate::tree::{
    self, Argument, Definition, DomainText, Node, Parameter, Source, Statement, Tree, Written,
};
use crate::value::Value;
pub use operations::{AveragePool, BatchNorm, Convolution, Depthwise, Linear, MaxPool};
pub use terms::{Arguments, Term, Values};

/// A space on its way: its name, parameters and templates.
pub struct SpaceBuilder {
    tree: Tree,
    known: Vec<Binding>,
    shared: Rc<Shared>,
}

/// A template of a [`SpaceBuilder`] with `N` parameters.
#[derive(Clone, Debug)]
pub struct Template<const N: usize> {
    name: String,
    definition: usize,
}

/// A name with the number of what it stands for.
type Binding = (String, usize);

/// What all blocks of a builder share.
#[derive(Default)]
struct Shared {
    bindings: Cell<usize>,
    /// The names of the space's templates.
    templates: RefCell<Vec<String>>,
    /// The first thing that is wrong.
    problem: RefCell<Option<String>>,
}

impl Shared {
    fn fail(&self, place: &str, message: impl FnOnce() -> String) {
        let mut problem = self.problem.borrow_mut();
        problem.get_or_insert_with(|| format!("in {place}: {}", message()));
    }

    /// A new meaning for `name`.
    fn bind(&self, place: &str, what: &str, name: &str, known: &mut Vec<Binding>) -> Term {
        if let Err(message) = legal_name(name, what) {
            self.fail(place, || message);
        }
        let number = self.bindings.get();
        self.bindings.set(number + 1);
        known.push((name.to_owned(), number));
        Term(Expression::Name(Word {
            text: name.to_owned(),
            at: number,
        }))
    }
}

impl SpaceBuilder {
    /// A space without parameters and templates.
    pub fn new(name: &str) -> Self {
        let shared = Rc::<Shared>::default();
        if !is_label(name) {
            shared.fail("the space", || format!("`{name}` is no word"));
        }
        let source = Source {
            file: format!("{name}, as built"),
            text: String::new(),
        };
        Self {
            tree: Tree {
                name: name.to_owned(),
                parameters: Vec::new(),
                definitions: Vec::new(),
                body: Vec::new(),
                fixes: Vec::new(),
                source,
            },
            known: Vec::new(),
            shared,
        }
    }

    /// A parameter with its value, known in the whole space; recipes can set it. Parameters come
    /// before templates.
    pub fn parameter(&mut self, name: &str, value: impl Into<Value>) -> Term {
        if !self.tree.definitions.is_empty() {
            let message = || format!("parameter `{name}` comes after a template");
            self.shared.fail("the space", message);
        }
        self.tree.parameters.push((name.to_owned(), value.into()));
        let what = "the name of a parameter";
        self.shared.bind("the space", what, name, &mut self.known)
    }

    /// A template: each use decides afresh. `body` gets its parameters; of other names it knows
    /// only the space's parameters. A parameter `read NAME` is a tensor: the template reads it as a
    /// label, and is given [`Term::tensor`].
    pub fn define<const N: usize>(
        &mut self,
        name: &str,
        parameters: [&str; N],
        body: impl FnOnce(&mut Block, [Term; N]),
    ) -> Template<N> {
        self.define_recursive(name, parameters, |block, parameters, _| {
            body(block, parameters)
        })
    }

    /// As [`SpaceBuilder::define`] for a template that uses itself: under a label and inside a
    /// [`Block::when`] that ends it.
    pub fn define_recursive<const N: usize>(
        &mut self,
        name: &str,
        parameters: [&str; N],
        body: impl FnOnce(&mut Block, [Term; N], &Template<N>),
    ) -> Template<N> {
        let template = Template {
            name: name.to_owned(),
            definition: self.tree.definitions.len(),
        };
        let place = format!("template `{name}`");
        if let Err(message) = legal_name(name, "the name of a template") {
            self.shared.fail(&place, || message);
        }
        self.shared.templates.borrow_mut().push(name.to_owned());
        self.tree.definitions.push(Definition {
            name: name.to_owned(),
            parameters: parameters.map(parameter).to_vec(),
            body: Vec::new(),
        });
        let mut block = Block {
            statements: Vec::new(),
            known: self.known.clone(),
            label: None,
            shared: self.shared.clone(),
            place,
        };
        let terms = parameters.map(|name| {
            let Parameter { name, is_tensor } = parameter(name);
            match is_tensor {
                true => Term::tensor(&name),
                false => block.bind("the name of a parameter", &name),
            }
        });
        body(&mut block, terms, &template);
        self.tree.definitions[template.definition].body = block.finish();
        template
    }

    /// Takes a template, and those that it uses, from a family: `import mbconv from fm-nano`.
    ///
    /// # Errors
    /// If there is no such family or template, the template has other than `N` parameters, or a
    /// template of one of these names exists already.
    pub fn import<const N: usize>(&mut self, family: &str, template: &str) -> Result<Template<N>> {
        let definition = Space::builtin(family)?
            .tree()
            .import_into(template, &mut self.tree.definitions, 0)
            .map_err(SpaceError::Illegal)?;
        let names = self.tree.definitions.iter();
        let names = names.map(|definition| definition.name.clone());
        self.shared.templates.replace(names.collect());
        let place = definition;
        let definition = &self.tree.definitions[place];
        let parameters = &definition.parameters;
        if parameters.len() != N {
            return Err(SpaceError::Illegal(format!(
                "template `{template}` of `{family}` takes {} arguments ({}), not {N}",
                parameters.len(),
                definition.parameter_list()
            )));
        }
        Ok(Template {
            name: template.to_owned(),
            definition: place,
        })
    }

    /// The space whose network `body` writes.
    ///
    /// # Errors
    /// Names that are no words; terms used where they are not known; and whatever is wrong with
    /// the space's text, of which the message shows the line.
    pub fn build(mut self, body: impl FnOnce(&mut Block)) -> Result<Space> {
        let mut block = Block {
            statements: Vec::new(),
            known: self.known,
            label: None,
            shared: self.shared.clone(),
            place: "the network".into(),
        };
        body(&mut block);
        self.tree.body = block.finish();
        if let Some(problem) = self.shared.problem.take() {
            return Err(SpaceError::Illegal(format!(
                "space `{}`, {problem}",
                self.tree.name
            )));
        }
        Space::new(parse(&self.tree.to_text(), &self.tree.source.file)?)
    }
}

/// A parameter as it is written: `width`, or `read before`.
fn parameter(text: &str) -> Parameter {
    let tensor = text.strip_prefix("read ");
    Parameter {
        name: tensor.unwrap_or(text).trim().to_owned(),
        is_tensor: tensor.is_some(),
    }
}

/// Statements that run one after the other: the body of a network, a template or a node.
pub struct Block {
    statements: tree::Block,
    /// What is known here, the latest last.
    known: Vec<Binding>,
    /// The label of the next node.
    label: Option<String>,
    shared: Rc<Shared>,
    /// Where it is, for messages.
    place: String,
}

impl Block {
    /// A shared decision: decided once, known in the rest of this block and in the blocks there.
    pub fn decide(&mut self, name: &str, values: impl Into<Values>) -> Term {
        let domain = self.domain(values.into());
        self.statement(Statement::Decide {
            name: name.to_owned(),
            domain,
            at: 0,
        });
        self.bind("the name of a decision", name)
    }

    /// A named expression, known as a decision is.
    pub fn name(&mut self, name: &str, value: impl Into<Term>) -> Term {
        let value = self.term(value);
        self.statement(Statement::Let {
            name: name.to_owned(),
            value,
            at: 0,
        });
        self.bind("the name of a value", name)
    }

    /// Labels the next node: `stem: conv(16)`. A labelled block is a scope for names.
    pub fn label(&mut self, label: &str) -> &mut Self {
        if let Some(unused) = &self.label {
            let message = || format!("label `{unused}` stands before label `{label}`");
            self.shared.fail(&self.place, message);
        }
        if !is_label(label) {
            let message = || format!("`{label}` is no label");
            self.shared.fail(&self.place, message);
        }
        self.label = Some(label.to_owned());
        self
    }

    /// The image: height, width and channels. Once, before everything else.
    pub fn input(
        &mut self,
        height: impl Into<Term>,
        width: impl Into<Term>,
        channels: impl Into<Term>,
    ) {
        let extents = [self.term(height), self.term(width), self.term(channels)];
        self.node(Node::Input(extents));
    }

    /// A template with its arguments: an array, or a tuple of different kinds.
    pub fn call<const N: usize>(&mut self, template: &Template<N>, arguments: impl Arguments<N>) {
        let arguments = arguments.terms().map(|term| match term.label() {
            Some(label) => Argument::Tensor(label.to_owned()),
            None => Argument::Value(self.term(term)),
        });
        let known = self
            .shared
            .templates
            .borrow()
            .get(template.definition)
            .cloned();
        if known.as_ref() != Some(&template.name) {
            let message = || format!("template `{}` is one of another space", template.name);
            self.shared.fail(&self.place, message);
            return;
        }
        if self.label.is_none() && self.place == format!("template `{}`", template.name) {
            let message = || format!("template `{}` uses itself without a label", template.name);
            self.shared.fail(&self.place, message);
        }
        self.node(Node::Call {
            definition: template.definition,
            arguments: arguments.to_vec(),
        });
    }

    /// One after the other; with a label, a scope for names.
    pub fn seq(&mut self, body: impl FnOnce(&mut Block)) {
        let body = self.inner("seq", body);
        self.node(Node::Seq(body));
    }

    /// Adds its input to what the block makes of it, where the shape is kept.
    pub fn residual(&mut self, body: impl FnOnce(&mut Block)) {
        let body = self.inner("residual", body);
        self.node(Node::Residual(body));
    }

    /// Multiplies its input by what the block makes of it: 1×1 pixels.
    pub fn gate(&mut self, body: impl FnOnce(&mut Block)) {
        let body = self.inner("gate", body);
        self.node(Node::Gate(body));
    }

    /// The input's channels, then those of the block.
    pub fn dense(&mut self, body: impl FnOnce(&mut Block)) {
        let body = self.inner("dense", body);
        self.node(Node::Dense(body));
    }

    /// Parallel branches, added: two or more.
    pub fn sum(&mut self) -> Branches<'_> {
        self.node(Node::Sum(Vec::new()));
        Branches { block: self }
    }

    /// Parallel branches, their channels after each other: two or more. An empty branch passes the
    /// input on.
    pub fn concat(&mut self) -> Branches<'_> {
        self.node(Node::Concat(Vec::new()));
        Branches { block: self }
    }

    /// Two to five blocks in an order that the decision `name` takes: `ab`, `ba`.
    pub fn permute(&mut self, name: &str) -> Branches<'_> {
        self.check_name(name);
        self.node(Node::Permute {
            name: name.to_owned(),
            blocks: Vec::new(),
        });
        Branches { block: self }
    }

    /// One of the branches, by the decision `name`.
    pub fn choice(&mut self, name: &str) -> Choices<'_> {
        self.check_name(name);
        self.node(Node::Choice {
            name: name.to_owned(),
            branches: Vec::new(),
        });
        Choices { block: self }
    }

    /// There or not, by the decision `name`.
    pub fn optional(&mut self, name: &str, body: impl FnOnce(&mut Block)) {
        self.check_name(name);
        let body = self.inner(name, body);
        self.node(Node::Optional {
            name: name.to_owned(),
            body,
        });
    }

    /// Copies of a block, as many as the decision `name` says: see [`Repeat::of`].
    pub fn repeat(&mut self, name: &str, values: impl Into<Values>) -> Repeat<'_> {
        self.check_name(name);
        let domain = self.domain(values.into());
        Repeat {
            name: name.to_owned(),
            domain,
            is_tied: false,
            block: self,
        }
    }

    /// Goes on from what the node with this label, in this block or around it, made.
    pub fn read(&mut self, label: &str) {
        if !is_label(label) {
            let message = || format!("`{label}` is no label");
            self.shared.fail(&self.place, message);
        }
        self.node(Node::Read(label.to_owned()));
    }

    /// Ends a branch of a `sum` or a `concat`, but for its first, that is left out. A sum of which all
    /// branches are left out passes its input on.
    pub fn nothing(&mut self) {
        self.node(Node::Nothing);
    }

    /// The block, if a condition on parameters and decisions holds: see [`When::otherwise`].
    pub fn when(&mut self, condition: impl Into<Term>, body: impl FnOnce(&mut Block)) -> When<'_> {
        let condition = self.term(condition);
        let then = self.inner("if", body);
        self.node(Node::If {
            condition,
            then,
            otherwise: Vec::new(),
        });
        When { block: self }
    }

    /// An inner block with what is known here.
    fn inner(&mut self, name: &str, body: impl FnOnce(&mut Block)) -> tree::Block {
        let label = self.label.as_deref().unwrap_or(name);
        let mut block = Block {
            statements: Vec::new(),
            known: self.known.clone(),
            label: None,
            shared: self.shared.clone(),
            place: format!("{}, `{label}`", self.place),
        };
        body(&mut block);
        block.finish()
    }

    fn finish(self) -> tree::Block {
        if let Some(label) = &self.label {
            let message = || format!("nothing follows label `{label}`");
            self.shared.fail(&self.place, message);
        }
        self.statements
    }

    fn node(&mut self, node: Node) {
        let label = self.label.take();
        self.statements.push(Statement::Node { label, node, at: 0 });
    }

    fn statement(&mut self, statement: Statement) {
        if let Some(label) = self.label.take() {
            let message = || format!("label `{label}` stands before no node");
            self.shared.fail(&self.place, message);
        }
        self.statements.push(statement);
    }

    /// The node that was added last.
    fn last(&mut self) -> Option<&mut Node> {
        match self.statements.last_mut() {
            Some(Statement::Node { node, .. }) => Some(node),
            _ => None,
        }
    }

    fn bind(&mut self, what: &str, name: &str) -> Term {
        self.shared.bind(&self.place, what, name, &mut self.known)
    }

    fn check_name(&self, name: &str) {
        if let Err(message) = legal_name(name, "the name of a decision") {
            self.shared.fail(&self.place, || message);
        }
    }

    /// A term as it is written here.
    fn term(&self, term: impl Into<Term>) -> Written {
        let Term(written) = term.into();
        written.names(&mut |word| self.check_word(word));
        written
    }

    /// A name must mean here what it meant where its term was made.
    fn check_word(&self, word: &Word) {
        let name = &word.text;
        let found = self.known.iter().rev().find(|(known, _)| known == name);
        let message = match found {
            Some((_, number)) if *number == word.at => return,
            None if word.at == Term::WORD => return,
            _ if word.at == Term::TENSOR => {
                format!("`{name}` is a tensor: it is read, or given to a template")
            }
            Some(_) => format!(
                "`{name}` means something else here: give one of the two another name, or use each where it is known"
            ),
            None => format!("`{name}` is used outside of the block in which it is known"),
        };
        self.shared.fail(&self.place, || message);
    }

    fn domain(&self, Values(domain): Values) -> DomainText {
        for term in domain.terms() {
            term.names(&mut |word| self.check_word(word));
        }
        domain
    }
}

/// Branches of a `sum`, a `concat` or a `permute`.
pub struct Branches<'b> {
    block: &'b mut Block,
}

impl Branches<'_> {
    /// Another branch.
    pub fn branch(self, body: impl FnOnce(&mut Block)) -> Self {
        let body = self.block.inner("branch", body);
        if let Some(
            Node::Sum(branches)
            | Node::Concat(branches)
            | Node::Permute {
                blocks: branches, ..
            },
        ) = self.block.last()
        {
            branches.push(body);
        }
        self
    }
}

/// Branches of a `choice`.
pub struct Choices<'b> {
    block: &'b mut Block,
}

impl Choices<'_> {
    /// Another branch, the decision's value `label`.
    pub fn branch(self, label: &str, body: impl FnOnce(&mut Block)) -> Self {
        if !is_label(label) {
            let message = || format!("`{label}` is no label of a branch");
            self.block.shared.fail(&self.block.place, message);
        }
        let body = self.block.inner(label, body);
        if let Some(Node::Choice { branches, .. }) = self.block.last() {
            branches.push((label.to_owned(), body));
        }
        self
    }
}

/// A repeat without its body.
#[must_use = "a repeat needs its body: `.of(…)`"]
pub struct Repeat<'b> {
    name: String,
    domain: DomainText,
    is_tied: bool,
    block: &'b mut Block,
}

impl Repeat<'_> {
    /// All copies take the first one's values.
    pub fn tied(mut self) -> Self {
        self.is_tied = true;
        self
    }

    /// The body of each copy.
    pub fn of(self, body: impl FnOnce(&mut Block)) {
        self.place(None, |block, _| body(block));
    }

    /// The body, which knows the number of its copy, from 0, as `index`.
    pub fn of_each(self, index: &str, body: impl FnOnce(&mut Block, Term)) {
        self.place(Some(index), |block, index| {
            if let Some(index) = index {
                body(block, index);
            }
        });
    }

    fn place(self, index: Option<&str>, body: impl FnOnce(&mut Block, Option<Term>)) {
        let inner = self.block.inner("repeat", |block| {
            let term = index.map(|index| block.bind("the name of the index", index));
            body(block, term);
        });
        self.block.node(Node::Repeat {
            tied: self.is_tied,
            name: self.name,
            domain: self.domain,
            index: index.map(str::to_owned),
            body: inner,
        });
    }
}

/// A condition that may have another side.
pub struct When<'b> {
    block: &'b mut Block,
}

impl When<'_> {
    /// The block, if the condition does not hold.
    pub fn otherwise(self, body: impl FnOnce(&mut Block)) {
        let body = self.block.inner("else", body);
        if let Some(Node::If { otherwise, .. }) = self.block.last() {
            *otherwise = body;
        }
    }
}

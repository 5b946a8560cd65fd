//! Tree to text: what the parser reads back as the same tree.

use std::fmt::Write;

use crate::expression::Expression;
use crate::tree::{
    Argument, Block, Definition, DomainText, Fix, Node, SettingText, Statement, Tree, Written,
};
use crate::value::Value;

impl Tree {
    /// The text, parameters with their values.
    pub fn to_text(&self) -> String {
        let parameters: Vec<String> = self
            .parameters
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        let mut printer = Printer {
            definitions: &self.definitions,
            text: format!("space {}", self.name),
            indent: 0,
        };
        if !parameters.is_empty() {
            let _ = write!(printer.text, "({})", parameters.join(", "));
        }
        printer.text.push_str("\n\n");
        for definition in &self.definitions {
            printer.definition(definition);
        }
        printer.statements(&self.body);
        for Fix { name, values, .. } in &self.fixes {
            let values: Vec<String> = values.iter().map(Value::to_string).collect();
            let name = match name.contains(['.', '[']) {
                true => format!("\"{name}\""),
                false => name.clone(),
            };
            let _ = writeln!(printer.text, "fix {name} in ({})", values.join(", "));
        }
        printer.text
    }
}

/// The text of one template, which may use others of `definitions`.
pub(crate) fn definition_text(definition: &Definition, definitions: &[Definition]) -> String {
    let mut printer = Printer {
        definitions,
        text: String::new(),
        indent: 0,
    };
    printer.definition(definition);
    printer.text
}

struct Printer<'t> {
    definitions: &'t [Definition],
    text: String,
    indent: usize,
}

impl Printer<'_> {
    fn definition(&mut self, definition: &Definition) {
        let Definition { name, body, .. } = definition;
        let parameters = definition.parameter_list();
        let _ = write!(self.text, "define {name}({parameters}) ");
        self.block(body);
        self.text.push_str("\n\n");
    }

    fn statements(&mut self, block: &Block) {
        for statement in block {
            self.text.push_str(&"  ".repeat(self.indent));
            match statement {
                Statement::Decide { name, domain, .. } => {
                    let _ = write!(self.text, "decide {name} in {}", domain_text(domain));
                }
                Statement::Let { name, value, .. } => {
                    let _ = write!(self.text, "let {name} = {}", expression(value, 0));
                }
                Statement::Setting { name, value, .. } => {
                    let value = match value {
                        SettingText::Decided(domain) => domain_text(domain),
                        SettingText::Computed(value) => expression(value, 0),
                    };
                    let _ = write!(self.text, "{name} = {value}");
                }
                Statement::Node { label, node, .. } => {
                    if let Some(label) = label {
                        let _ = write!(self.text, "{label}: ");
                    }
                    self.node(node);
                }
            }
            self.text.push('\n');
        }
    }

    fn block(&mut self, block: &Block) {
        if block.is_empty() {
            self.text.push_str("{ }");
            return;
        }
        self.text.push_str("{\n");
        self.indent += 1;
        self.statements(block);
        self.indent -= 1;
        self.text.push_str(&"  ".repeat(self.indent));
        self.text.push('}');
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Input(shape) => {
                let _ = write!(self.text, "input({})", list(shape));
            }
            Node::Op { kind, arguments } => {
                let given: Vec<String> = kind
                    .arguments
                    .iter()
                    .zip(arguments)
                    .enumerate()
                    .filter_map(|(index, ((name, _), value))| {
                        let value = expression(value.as_ref()?, 0);
                        Some(if index == 0 {
                            value
                        } else {
                            format!("{name} = {value}")
                        })
                    })
                    .collect();
                self.text.push_str(kind.name);
                if !given.is_empty() {
                    let _ = write!(self.text, "({})", given.join(", "));
                }
            }
            Node::Call {
                definition,
                arguments,
            } => {
                let name = &self.definitions[*definition].name;
                let arguments: Vec<String> = arguments
                    .iter()
                    .map(|argument| match argument {
                        Argument::Value(value) => expression(value, 0),
                        Argument::Tensor(label) => format!("read {label}"),
                    })
                    .collect();
                let _ = write!(self.text, "{name}({})", arguments.join(", "));
            }
            Node::Settings(body) => self.named("settings", body),
            Node::Seq(body) => self.named("seq", body),
            Node::Residual(body) => self.named("residual", body),
            Node::Gate(body) => self.named("gate", body),
            Node::Dense(body) => self.named("dense", body),
            Node::Sum(branches) => self.several("sum", branches),
            Node::Concat(branches) => self.several("concat", branches),
            Node::Permute { name, blocks } => self.several(&format!("permute {name}"), blocks),
            Node::Read(name) => {
                let _ = write!(self.text, "read {name}");
            }
            Node::Nothing => self.text.push_str("nothing"),
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                self.named(&format!("if {}", expression(condition, 0)), then);
                if !otherwise.is_empty() {
                    self.named(" else", otherwise);
                }
            }
            Node::Optional { name, body } => self.named(&format!("optional {name}"), body),
            Node::Choice { name, branches } => {
                let _ = writeln!(self.text, "choice {name} {{");
                self.indent += 1;
                for (label, block) in branches {
                    self.text.push_str(&"  ".repeat(self.indent));
                    self.named(&format!("{label}:"), block);
                    self.text.push('\n');
                }
                self.indent -= 1;
                self.text.push_str(&"  ".repeat(self.indent));
                self.text.push('}');
            }
            Node::Repeat {
                tied,
                name,
                domain,
                index,
                body,
            } => {
                let tied = if *tied { "tied " } else { "" };
                let index = index
                    .as_ref()
                    .map(|name| format!(" as {name}"))
                    .unwrap_or_default();
                self.named(
                    &format!("repeat {tied}{name} in {}{index}", domain_text(domain)),
                    body,
                );
            }
        }
    }

    fn several(&mut self, head: &str, blocks: &[Block]) {
        self.text.push_str(head);
        for block in blocks {
            self.text.push(' ');
            self.block(block);
        }
    }

    fn named(&mut self, head: &str, body: &Block) {
        self.text.push_str(head);
        self.text.push(' ');
        self.block(body);
    }
}

fn list(parts: &[Written]) -> String {
    parts
        .iter()
        .map(|part| expression(part, 0))
        .collect::<Vec<_>>()
        .join(", ")
}

fn domain_text(domain: &DomainText) -> String {
    match domain {
        DomainText::List { values, unordered } => {
            format!(
                "{}({})",
                if *unordered { "unordered " } else { "" },
                list(values)
            )
        }
        DomainText::Log { from, to, count } => {
            let [from, to, count] = [from, to, count].map(|part| expression(part, 0));
            format!("log {from}..={to} count {count}")
        }
        DomainText::Range { from, to, step } => {
            let step = step
                .as_ref()
                .map(|step| format!(" step {}", expression(step, 0)));
            let (from, to) = (expression(from, 0), expression(to, 0));
            format!("{from}..={to}{}", step.unwrap_or_default())
        }
    }
}

fn expression(value: &Written, around: u8) -> String {
    match value {
        Expression::Constant(Value::Text(word)) => format!("\"{word}\""),
        Expression::Constant(value) => value.to_string(),
        Expression::Name(word) => word.text.clone(),
        Expression::Binary(operator, left, right) => {
            let own = operator.precedence();
            let (left, right) = (expression(left, own), expression(right, own + 1));
            let text = format!("{left} {} {right}", operator.text());
            if own < around {
                format!("({text})")
            } else {
                text
            }
        }
        Expression::Call(function, arguments) => {
            format!("{}({})", function.text(), list(arguments))
        }
        Expression::If(parts) => {
            let [condition, then, otherwise] = parts.each_ref().map(|part| expression(part, 0));
            let text = format!("if {condition} then {then} else {otherwise}");
            if around > 0 {
                format!("({text})")
            } else {
                text
            }
        }
    }
}

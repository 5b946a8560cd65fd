//! A learner from its parts: which fit together and which do not.

use super::*;

impl Learner {
    /// A learner of a model, with everything around it.
    pub(super) fn of_model(
        space: &Space,
        model: Model,
        mut elastic: Option<Elastic>,
        mut parameters: Parameters,
        method: Method,
        settings: LearnerSettings,
    ) -> Result<Self> {
        check_refresh(&method)?;
        add_contrastive(
            &model,
            elastic.as_mut(),
            &mut parameters,
            &method,
            &settings,
        )?;
        add_prototypes(
            &model,
            elastic.as_mut(),
            &mut parameters,
            &method,
            &settings,
        )?;
        let input = model.input_shape();
        settings
            .normalisation
            .check(settings.normalisation.mean.len())?;
        if let Some(changes) = &settings.augmentation {
            changes.check(input.len())?;
        }
        let memory = memory_of(&model, &method, &settings)?;
        if method.angles.is_some() && !model.is_cosine() {
            let legal = "a cosine head, whose angles its terms compare";
            return Err(setting("the head of the method", "another", legal));
        }
        let has_norms = model
            .graph()
            .nodes
            .iter()
            .any(|node| matches!(node.op, Op::BatchNorm { .. }));
        if has_norms {
            check_importances(&method)?;
        }
        let paths = method.weights.iter().map(|term| {
            let has_path = matches!(term.importance, Importance::PathIntegral { .. });
            (has_path && term.weight != 0.0).then(|| (parameters.zeros(), parameters.clone()))
        });
        Ok(Self {
            optimiser: Optimiser::new(
                &parameters,
                settings.rule,
                settings.weight_decay,
                TransformDecay::Zero,
            ),
            gradients: Gradients::zeros(&parameters),
            executor: Executor::default(),
            paths: paths.collect(),
            anchors: method.weights.iter().map(|_| None).collect(),
            memory,
            previous: None,
            recent: Examples::default(),
            seen: Vec::new(),
            old: 0,
            step: 0,
            task: 0,
            batches: 0,
            images: 0,
            train_macs: 0,
            forwarded: 0,
            evaluation_macs: 0,
            batches_per_epoch: 0,
            correction: None,
            fisher: None,
            centres: Centres::default(),
            space: space.clone(),
            model: Arc::new(model),
            elastic,
            has_norms,
            parameters,
            settings,
            method,
        })
    }
}

fn check_refresh(method: &Method) -> Result<()> {
    let Some(refresh) = &method.refresh else {
        return Ok(());
    };
    refresh.check()?;
    if refresh.is_active() && method.cross_entropy == 0.0 && method.outputs.is_empty() {
        return Err(ContinualError::NotAvailable {
            what: format!("refresh learning with `{}`", method.name),
            reason: "its loss has no terms that could be unlearnt".into(),
        });
    }
    Ok(())
}

/// Adds the projection of a contrastive method, which the networks of a supernet share.
fn add_contrastive(
    model: &Model,
    elastic: Option<&mut Elastic>,
    parameters: &mut Parameters,
    method: &Method,
    settings: &LearnerSettings,
) -> Result<()> {
    let Some(contrastive) = &method.contrastive else {
        return Ok(());
    };
    contrastive.check()?;
    if method.classifier != Classifier::NearestMean {
        return Err(setting(
            "the classifier of a contrastive method",
            "not `nearest-mean`",
            "`nearest-mean`: the loss does not train the head",
        ));
    }
    let width = contrastive.width;
    add_projection(parameters, model.feature_width(), width, settings.seed);
    let Some(elastic) = elastic else {
        return Ok(());
    };
    check_distillation(elastic, method, "learn no labels")?;
    let [hidden, out] = projection_layers(parameters);
    let shared = [(hidden, true), (out, false)];
    let shared = shared.map(|(layer, reads_features)| SharedLayer {
        layer,
        reads_features,
    });
    elastic.share_layers(parameters, &shared);
    Ok(())
}

/// Adds OnPro's projection, which the networks of a supernet share.
fn add_prototypes(
    model: &Model,
    elastic: Option<&mut Elastic>,
    parameters: &mut Parameters,
    method: &Method,
    settings: &LearnerSettings,
) -> Result<()> {
    let Some(onpro) = &method.prototypes else {
        return Ok(());
    };
    let changes = settings.augmentation.as_ref().ok_or_else(needs_views)?;
    onpro.turns.check(changes.shape)?;
    let smallest = elastic.as_deref().and_then(Elastic::smallest_feature_width);
    onpro.check(smallest.unwrap_or(model.feature_width()))?;
    let draws = Draws::new(settings.seed, PROJECTION, 0, 0);
    let sizes = (model.feature_width(), onpro.projection);
    add_linear(parameters, PROJECTION, sizes, draws);
    if let Some(elastic) = elastic {
        check_distillation(elastic, method, "learn mixed labels")?;
        let shared = SharedLayer {
            layer: Linear::of(parameters, PROJECTION),
            reads_features: true,
        };
        elastic.share_layers(parameters, &[shared]);
    }
    Ok(())
}

/// What a method whose networks learn otherwise than from labels cannot have.
fn check_distillation(elastic: &Elastic, method: &Method, networks: &str) -> Result<()> {
    match elastic.settings.distillation {
        true => Err(ContinualError::NotAvailable {
            what: format!("`distillation` with `{}`", method.name),
            reason: format!("its smaller networks {networks}"),
        }),
        false => Ok(()),
    }
}

/// The memory that a method wants, empty.
fn memory_of(model: &Model, method: &Method, settings: &LearnerSettings) -> Result<Option<Memory>> {
    let least = settings.batch_size.max(method.largest_draw());
    if method.memory.is_some() && settings.memory < least {
        return Err(setting(
            "the memory's capacity",
            settings.memory,
            format!("{least} or more, the larger of the batch and the replay batch"),
        ));
    }
    let memory = method
        .memory
        .map(|policy| {
            Memory::new(
                policy,
                settings.memory,
                model.input_shape().len(),
                model.classes(),
                method.stores_logits(),
                settings.seed,
            )
        })
        .transpose()?;
    let is_steady = settings.fills_at_task_end || method.memory == Some(MemoryPolicy::Herding);
    if settings.replays_in_passes && !is_steady {
        let legal = "filled at task ends, where replay comes in passes";
        return Err(setting("the memory", "filled batch by batch", legal));
    }
    let needs_memory = method.largest_draw() > 0 || method.classifier != Classifier::Head;
    if needs_memory && memory.is_none() {
        return Err(setting(
            "the memory of the method",
            "none",
            "a memory policy",
        ));
    }
    Ok(memory)
}

/// What a network with batch-norm cannot give: gradients of single images.
fn check_importances(method: &Method) -> Result<()> {
    let is_per_example = |importance: &Importance| {
        matches!(
            importance,
            Importance::Fisher { .. } | Importance::OutputSensitivity { .. }
        )
    };
    let mut active = method.weights.iter().filter(|term| term.weight != 0.0);
    if active.any(|term| is_per_example(&term.importance)) {
        return Err(ContinualError::NotAvailable {
            what: format!("method `{}` on a network with batch-norm", method.name),
            reason: "one image has no batch statistics; use a network without batch-norm".into(),
        });
    }
    Ok(())
}

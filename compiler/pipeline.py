"""The whole compile: the project's files in, the hashes of what `generated/` should hold out.

Only what has changed is built, and what has not is judged by what the store knows of it. With an empty store that is
everything; either way the outcome is the same.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from compiler.attempt import Attempt, attempt, attempts_in_processes
from compiler.build import keys
from compiler.build.files import cluster_file, cluster_path, model_file, model_path
from compiler.build.manifest import manifest
from compiler.build.places import MANIFEST
from compiler.build.store import Store
from compiler.check.layers import Layers
from compiler.check.waivers import Waivers, waive
from compiler.clusters import check_deadlines, check_hardware, cluster_names, compile_cluster, offered_hardware
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, has_errors
from compiler.facts import Facts
from compiler.lint.registry import lint_registry
from compiler.lint.rules import folded_name
from compiler.models import collect, through
from compiler.records import dump_found, dump_waivers, load_facts, load_found, load_waivers
from compiler.source.project import BASE, CLUSTERS, DEFAULTS, LOCKS, REGISTRY, Project
from compiler.sources import UNREADABLE, Sources

_FEW = 8
"""So many files are looked for one by one; more in one go through all models."""
_MANY = 500
"""So many models are worth the start of other processes, each of which takes half a second."""


@dataclass(frozen=True, slots=True)
class Compilation:
    """What a compile found and made.

    `clusters`: the names of the models that each serves. `outputs`: path -> digest of each file that `generated/`
    should hold, the manifest among them; nothing where there are errors. `unlocked`: the enabled models without a lock.
    `built`: the models that had to be compiled. `carried`: those whose files have changed, and say what they said.
    `sources`: the hash of all that was compiled.
    """

    store: Store
    models: Mapping[str, Facts]
    clusters: dict[str, list[str]]
    found: list[Diagnostic]
    outputs: dict[str, str] = field(default_factory=dict)
    unlocked: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    sources: str = ""


def compile_project(project: Project) -> Compilation:
    """Compile every model and every cluster. Raises ConfigErrors with all findings of all files."""
    compilation = check_project(project)
    if has_errors(compilation.found):
        raise ConfigErrors(compilation.found)
    return compilation


def outputs(compilation: Compilation) -> dict[str, bytes]:
    """The files that `generated/` should hold: path under the root -> bytes."""
    return {path: compilation.store.blob(digest) for path, digest in compilation.outputs.items()}


@dataclass(frozen=True, slots=True)
class Settings:
    """How to compile. `changed`: the files that may have changed since the store's last compile; None: any.

    `step` hears how many of how many models are done. `pull` may put builds of the sources of that hash into the
    store. `jobs`: processes that build, when there is much to build.
    """

    changed: Collection[str] | None = None
    step: Callable[[int, int], None] = lambda _done, _of: None
    pull: Callable[[Store, str], None] | None = None
    jobs: int = 1


def check_project(project: Project, store: Store | None = None, settings: Settings | None = None) -> Compilation:
    """As `compile_project`, and where there are errors, as much as there is without them.

    Raises ConfigErrors (E501) and DamagedError where the store fails.
    """
    found: list[Diagnostic] = []
    for names in (lambda: project.profiles, lambda: project.models, lambda: project.clusters, lambda: project.locks):
        collect(found, names)
    store = store or Store(None)
    if found:
        return Compilation(store, {}, {}, found)
    with store.writing():
        return _Compile(project, store, settings or Settings()).run()


class _Models(Mapping[str, Facts]):
    """The facts of models that the store has, each read when it is asked for."""

    def __init__(self, store: Store, names: Iterable[str]) -> None:
        self._store, self._names = store, dict.fromkeys(names)

    def __getitem__(self, name: str) -> Facts:
        if name not in self._names:
            raise KeyError(name)
        query = "SELECT facts FROM model JOIN action USING (key) WHERE name = ?"
        return load_facts(str(self._store.value(query, name)))

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass
class _Compile:
    """One compile. `found`: what is not kept in the store: errors, and what concerns the registry as a whole."""

    project: Project
    store: Store
    settings: Settings
    layers: Layers = field(init=False)
    digests: dict[str, str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    found: list[Diagnostic] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    were_below: set[str] = field(default_factory=set)

    def run(self) -> Compilation:
        self.layers = Layers(self.project)
        sources = Sources(self.project, self.store, self.settings.changed)
        self.digests, moved = sources.digests, sources.moved
        state = sources.hash() if self.settings.pull else ""
        if moved and self.settings.pull:
            self.settings.pull(self.store, state)
        self._check_profiles()
        same = sources.note()
        affected = self._affected(moved - same)
        carried = self._carry_builds(same, set(affected))
        self.store.note("compiler", keys.compiler_digest())
        rebuilt = self._build_models(affected)
        enabled = self._names("WHERE enabled")
        models = _Models(self.store, self._names(""))
        clusters = self._build_clusters(_Models(self.store, enabled), rebuilt, moved)
        self._lint(models, rebuilt)
        found = self._all_found()
        if not has_errors(found):
            found += _unused(models, enabled, clusters)
            found += _locks_of_nothing(self.project)
        found = list(waive(found, self._waivers()))
        outputs = {} if has_errors(found) else self._outputs()
        unlocked = sorted(set(enabled) - set(self.project.locks))
        return Compilation(self.store, models, clusters, found, outputs, unlocked, self.built, carried, state)

    # What has changed

    def _check_profiles(self) -> None:
        """Each profile by itself, used or not."""
        if self.store.state("compiler") != keys.compiler_digest():
            self.store.write("DELETE FROM checked", [()])  # another one may find other things
        self.store.write("DELETE FROM checked WHERE digest = ?", [(UNREADABLE,)])
        known = set(self.store.rows(f"SELECT file, digest FROM checked WHERE file GLOB '{BASE}/*'"))  # noqa: S608
        for name in self.project.profiles:
            file = f"{BASE}/{name}.yaml"
            if (file, self.digests[file]) not in known:
                self.layers.get(file)
                self._note_checked(file, self.layers.found_in(file), self.layers.waivers.get(file))

    def _note_checked(self, file: str, found: list[Diagnostic], waivers: Waivers | None) -> None:
        row = (file, self.digests[file], dump_found(found), dump_waivers(waivers) if waivers else None)
        self.store.write("INSERT OR REPLACE INTO checked VALUES (?, ?, ?, ?)", [row])

    def _affected(self, moved: set[str]) -> list[str]:
        """The models that have to be looked at again."""
        names = self.project.models
        done = self.before = {str(name): str(key) for name, key in self.store.rows("SELECT name, key FROM model")}
        self.store.write("DELETE FROM model WHERE name = ?", [(name,) for name in done.keys() - set(names)])
        if self.store.state("compiler") != keys.compiler_digest() or f"{BASE}/{DEFAULTS}.yaml" in moved:
            return names
        twins = set()  # a name that means another file now, or two
        for file in moved:
            folder, _, name = file.partition("/")
            twins.add(f"{REGISTRY if folder == BASE else BASE}/{name}")
        own = {file.rpartition("/")[2].removesuffix(".yaml") for file in moved if file.startswith(f"{REGISTRY}/")}
        affected = {name for name in names if not done.get(name) or name in own}
        return sorted(affected | self._standing_on(moved | twins) & set(names))

    def _standing_on(self, files: set[str]) -> set[str]:
        """The models that have one of these files among their layers."""
        query = "SELECT name, inputs FROM model JOIN action USING (key)"
        if len(files) > _FEW:
            rows = self.store.rows(query)
            return {str(name) for name, inputs in rows if not files.isdisjoint(str(inputs).split())}
        anywhere = " OR ".join("instr(inputs, ?)" for _ in files)
        rows = self.store.rows(f"{query} WHERE {anywhere}", *(f" {file}\n" for file in files)) if files else []
        return {str(name) for name, _ in rows}

    def _carry_builds(self, same: set[str], affected: set[str]) -> list[str]:
        """What was built of files that say what they said is the build of those files now; the models it was."""
        carried = []
        rows = self.store.rows("SELECT name, key, inputs FROM model JOIN action USING (key)") if same else []
        for name, key, lines in rows:
            files = [line.partition(" ")[2] for line in str(lines).splitlines()]
            if same.isdisjoint(files) or name in affected:
                continue
            inputs = keys.model_inputs((self.digests[file], file) for file in files)
            now = keys.key_of(inputs)
            self.store.keep_as(str(key), now, inputs)
            self.store.write("UPDATE model SET previous = key, key = ? WHERE name = ?", [(now, name)])
            carried.append(str(name))
        return carried

    # Models

    def _build_models(self, affected: list[str]) -> set[str]:
        """Build them; the names of those that are not what they were."""
        rebuilt = set()
        for number, made in enumerate(self._attempts(affected)):
            self.settings.step(number, len(affected))
            self._note_checked(f"{REGISTRY}/{made.name}.yaml", made.found, made.waivers)
            self.found += made.errors
            if made.data:
                self.store.put(made.data)
            if made.action:
                self.store.keep(made.action)
                self.built.append(made.name)
            before = self.before.get(made.name)
            if made.key != before:
                rebuilt.add(made.name)
                last = self.store.action(before) if before else None
                self.were_below |= (
                    _models_in(line.partition(" ")[2] for line in last.inputs.splitlines()) if last else set()
                )
                statement = (
                    "INSERT INTO model VALUES (?, ?, NULL, NULL) ON CONFLICT (name)"
                    " DO UPDATE SET previous = iif(key = '', previous, key), key = excluded.key, found = NULL"
                )
                self.store.write(statement, [(made.name, made.key)])
        self.settings.step(len(affected), len(affected))
        return rebuilt

    def _attempts(self, names: list[str]) -> Iterator[Attempt]:
        if self.settings.jobs > 1 and len(names) >= _MANY:
            return attempts_in_processes(self.project.root, self.digests, names, self.settings.jobs)
        return (attempt(self.layers, self.digests, name, self.store.is_done) for name in names)

    def _names(self, condition: str) -> list[str]:
        query = f"SELECT name FROM model JOIN action USING (key) {condition} ORDER BY name"  # noqa: S608 (our own text)
        return [str(row[0]) for row in self.store.rows(query)]

    # Clusters

    def _build_clusters(self, enabled: _Models, rebuilt: set[str], moved: set[str]) -> dict[str, list[str]]:
        """Build those that may not be what they were; the models of each."""
        names = cluster_names(self.project)
        rows = self.store.rows("SELECT name, members FROM cluster WHERE key != ''")
        last: dict[str, list[str]] = {str(name): json.loads(str(members)) for name, members in rows}
        hardware = self._hardware()
        around = keys.key_of("\n".join(self.project.models), "\n".join(enabled), json.dumps(hardware))
        if self.store.state("around clusters") != around:
            last = {}
        self.store.note("around clusters", around)
        quiet = {
            name: last[name]
            for name in last.keys() & set(names)
            if f"{CLUSTERS}/{name}.yaml" not in moved and not rebuilt & set(last[name])
        }
        others = [(str(name),) for (name,) in self.store.rows("SELECT name FROM cluster") if name not in quiet]
        self.store.write("DELETE FROM cluster WHERE name = ?", others)
        built = {name: self._build_cluster(name, enabled, hardware) for name in names if name not in quiet}
        clusters = quiet | {name: members for name, members in built.items() if members is not None}
        return dict(sorted(clusters.items()))

    def _hardware(self) -> dict[str, list[str]]:
        """What each hardware profile offers. It is worked out anew when a file of base/ has changed."""
        base = keys.key_of(*(f"{sha} {file}" for file, sha in sorted(self.digests.items()) if file.startswith(BASE)))
        if self.store.state("base") != base:
            offered = offered_hardware(self.layers, self.found)
            self.store.note("hardware", json.dumps({name: sorted(names) for name, names in offered.items()}))
            self.store.note("base", base)
        hardware: dict[str, list[str]] = json.loads(self.store.state("hardware") or "{}")
        return hardware

    def _build_cluster(self, name: str, enabled: _Models, hardware: Mapping[str, Collection[str]]) -> list[str] | None:
        """Build a cluster; the names of its models. None where its file is at fault."""
        found: list[Diagnostic] = []
        cluster = collect(found, partial(compile_cluster, self.layers, name, enabled, found))
        found += self.layers.found_in(f"{CLUSTERS}/{name}.yaml")
        if cluster is None:
            self.found += found
            return None
        found += check_hardware(cluster, hardware, self.project)
        found += check_deadlines(cluster, self.project)
        members, output = [each.name for each in cluster.members], ""
        if not has_errors([*found, *self.found]):
            files = (model_file(cluster.laid[each].model) if cluster.laid else self._file_of(each) for each in members)
            output = self.store.put(cluster_file(cluster.file or f"{REGISTRY}/", cluster.spec, cluster.members, files))
        row = (name, output, output, json.dumps(members), dump_found(found))
        self.store.write("INSERT INTO cluster VALUES (?, ?, ?, ?, ?)", [row])
        return members

    def _file_of(self, name: str) -> bytes:
        query = "SELECT output FROM model JOIN action USING (key) WHERE name = ?"
        return self.store.blob(str(self.store.value(query, name)))

    # Findings

    def _lint(self, models: Mapping[str, Facts], rebuilt: set[str]) -> None:
        """Judge again what was rebuilt, what lies or lay below it, and all if a name is new."""
        ids: dict[str, list[str]] = {}
        for (model_id,) in self.store.rows("SELECT model_id FROM model JOIN action USING (key) ORDER BY model_id"):
            ids.setdefault(folded_name(str(model_id)), []).append(str(model_id))
        known = keys.digest("\n".join(each for group in ids.values() for each in group).encode())
        subjects = {name for name in rebuilt if name in models}
        if self.store.state("model ids") != known:
            subjects = set(models)
            self.store.note("model ids", known)
        below = set(self.were_below)
        for name in sorted(subjects):
            facts = models[name]
            below |= _models_in(facts.layers)
            self._lint_model(facts, models, ids, is_new=name in rebuilt)
        for name in sorted(below & models.keys() - subjects):
            self._lint_model(models[name], models, ids, is_new=False)

    def _lint_model(
        self, facts: Facts, models: Mapping[str, Facts], ids: dict[str, list[str]], *, is_new: bool
    ) -> None:
        above = self._standing_on({facts.file}) if facts.dead else set()
        needed = {path for other in above for path in models[other].needs.get(facts.file, ())}
        found = [through(facts.file, each) for each in lint_registry(facts, needed, ids)]
        if found or not is_new:
            self.store.write("UPDATE model SET found = ? WHERE name = ?", [(dump_found(found), facts.name)])

    def _found_in_files(self) -> list[Diagnostic]:
        return self._loaded("SELECT found FROM checked JOIN source USING (file, digest) WHERE found NOT NULL")

    def _all_found(self) -> list[Diagnostic]:
        of_models = "SELECT {}.found FROM model JOIN action USING (key) WHERE {}.found NOT NULL"
        return [
            *self.found,
            *self._found_in_files(),
            *self._loaded(of_models.format("action", "action")),
            *self._loaded(of_models.format("model", "model")),
            *self._loaded("SELECT found FROM cluster WHERE found NOT NULL"),
        ]

    def _loaded(self, query: str) -> list[Diagnostic]:
        return [each for (text,) in self.store.rows(query) for each in load_found(str(text))]

    def _waivers(self) -> list[Waivers]:
        query = "SELECT waives FROM checked JOIN source USING (file, digest) WHERE waives NOT NULL"
        return [load_waivers(str(text)) for (text,) in self.store.rows(query)]

    # What comes out

    def _outputs(self) -> dict[str, str]:
        rows = self.store.rows("SELECT name, output, entry FROM model JOIN action USING (key) ORDER BY name")
        files = {model_path(str(name)): str(output) for name, output, _ in rows if output}
        for name, output in self.store.rows("SELECT name, output FROM cluster"):
            files[cluster_path(str(name))] = str(output)
        data = manifest(((str(name), str(text)) for name, _, text in rows), files)
        return {**files, MANIFEST: self.store.put(data)}


def _models_in(files: Iterable[str]) -> set[str]:
    """The names of the models among some layers."""
    return {
        file.removeprefix(f"{REGISTRY}/").removesuffix(".yaml") for file in files if file.startswith(f"{REGISTRY}/")
    }


def _unused(
    models: Mapping[str, Facts], enabled: Collection[str], clusters: Mapping[str, Collection[str]]
) -> Iterator[Diagnostic]:
    """A warning for each model that no cluster serves, and each cluster that serves no model."""
    served = {name for members in clusters.values() for name in members}
    hint = f"name it in a file of {CLUSTERS}/, or say `enabled: false` in this one"
    for name in enabled:
        if name not in served:
            place = Label(Span(models[name].file, 1, 1, 1, 1))
            yield Diagnostic("W401", f"no cluster serves `{name}`", place, help=hint)
    for name, members in clusters.items():
        if not members:
            yield Diagnostic("W402", f"cluster `{name}` serves no model", None)


def _locks_of_nothing(project: Project) -> Iterator[Diagnostic]:
    """A warning for each lock without a model."""
    for name in sorted(set(project.locks) - set(project.models)):
        place = Label(Span(f"{LOCKS}/{name}.yaml", 1, 1, 1, 1))
        yield Diagnostic("W601", f"there is no model `{name}`", place, help="remove the lock")

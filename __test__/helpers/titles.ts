import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { basename, join } from 'node:path'

/** A test that a document names: `file.spec.ts: title`, or `file.rs: name`. */
export interface NamedTest {
  readonly file: string
  readonly title: string
}

/** Returns the sources of a test file: of TypeScript in `__test__`; of Rust core's suite, and the module that has tests of its own. */
function sourceOf(file: string): string {
  const paths = file.endsWith('.spec.ts')
    ? [join('__test__', file)]
    : rustFiles().filter((path) => basename(path) === file)
  return paths
    .filter((path) => existsSync(path))
    .map((path) => readFileSync(path, 'utf8'))
    .join('\n')
}

function rustFiles(): string[] {
  const folders = ['crates/core/tests', 'crates/core/src']
  return folders.flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((path) => join(folder, path))
  )
}

/** A title as a pattern: what is put in for each `${…}` may be anything, or `…` where a document means all of them. */
function patternOf(quote: string, literal: string): RegExp {
  const parts = quote === '`' ? literal.split(/\$\{[^}]*(?:\{[^}]*\}[^}]*)*\}/) : [literal]
  const texts = parts.map((part) => part.replaceAll(/\\(.)/g, '$1').replaceAll(/[$()*+.?[\\\]^{|}]/g, '\\$&'))
  return new RegExp(`^${texts.join('.+')}$`)
}

const read = new Map<string, readonly RegExp[]>()

/** What the tests of a file are called; nothing where there is no such file. */
export function titlesOf(file: string): readonly RegExp[] {
  let titles = read.get(file)
  if (titles === undefined) {
    const source = sourceOf(file)
    const names = file.endsWith('.rs')
      ? source.matchAll(/#\[test\]\n(?: *#\[.*\n)* *fn ()(\w+)\(/g)
      : source.matchAll(/\(\s*(['"`])((?:\\[^]|(?!\1)[^\\])+)\1,/g) // the first of several arguments
    // What is nearly all put in tells nothing.
    titles = [...names]
      .filter(([, , text]) => text!.replaceAll(/\$\{[^}]*\}/g, '').length > 15)
      .map(([, quote, text]) => patternOf(quote!, text!))
    read.set(file, titles)
  }
  return titles
}

/** The tests that a text names in backquotes: `` `file.spec.ts: title` ``, where a title with backquotes has two around it. */
export function namedTests(text: string): NamedTest[] {
  const names = text.matchAll(/(`+)\s?((?:[\w/-]+\.spec\.ts)|(?:\w+\.rs)): (.+?)\s?\1(?!`)/g)
  return [...names].map(([, , file, title]) => ({ file: file!, title: title!.replaceAll('\\|', '|') }))
}

/** Whether there is such a test. */
export function exists({ file, title }: NamedTest): boolean {
  return titlesOf(file).some((pattern) => pattern.test(title))
}

/** The rows of the tables below a heading of a document, each as its cells; without those that name the columns. */
export function rowsOf(document: string): string[][] {
  return document
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .map((line) =>
      line
        .slice(1, line.lastIndexOf('|'))
        .split(/(?<!\\)\|/)
        .map((cell) => cell.trim())
    )
    .filter((cells, index, all) => !isRule(cells) && !isRule(all[index + 1]))
}

function isRule(cells: readonly string[] | undefined): boolean {
  return cells?.every((cell) => /^-+$/.test(cell)) ?? false
}

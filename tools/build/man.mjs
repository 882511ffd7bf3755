// Generates man/fdpass.1 from the definitions of the commands, which `npm run setup` has compiled. With --check it compares instead.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { buildProgram } from '../../dist/lib/cli/command-line.js'
import { root as folder } from '../run.mjs'

const page = join(folder, 'man', 'fdpass.1')

/** Returns text for roff. Hyphens and quotes of a command line stay searchable and can be copied. */
function escape(text) {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll("'", '\\(aq')
    .replaceAll('…', '...')
    .replace(/^\./gm, '\\&.')
}

/** Returns paragraphs with each sentence on lines of its own, as man-pages(7) requires. */
function prose(text) {
  const sentences = text.replaceAll('\n\n', '\n.PP\n').replaceAll(/(?<=[.:]) (?=[A-Z])/g, '\n')
  return sentences
    .split('\n')
    .flatMap((sentence) => sentence.match(/.{1,64}(?:\s|$)|\S+\s*/g))
    .map((line) => (line === '.PP' ? line : escape(line.trim())))
    .join('\n')
}

/** Returns a list of names with their meanings. */
function list(rows) {
  return rows.flatMap(([name, meaning]) => ['.TP', `.B ${escape(name)}`, prose(meaning)])
}

/** Returns the usages of a command, which may be several. */
function usagesOf(command) {
  return command.usage().split(/\n\s*fdpass \w+ (?=-)/)
}

function section(command) {
  const help = command.createHelp()
  const operands = help.visibleArguments(command)
  const options = help.visibleOptions(command)
  return [
    `.SS fdpass ${command.fullName}`,
    prose(command.description()),
    ...list(operands.map((operand) => [operand.name(), help.argumentDescription(operand)])),
    ...list(options.map((option) => [option.flags.replaceAll(/[<>]/g, ''), help.optionDescription(option)])),
    ...command.examples.flatMap((script) => ['.PP', '.EX', escape(script), '.EE'])
  ]
}

const root = await buildProgram(() => true)
const commands = root.descendants.slice(1)
const description = root.description()
const exitCodes = Object.entries(Object.assign({}, ...commands.map((command) => command.exitCodes)))
const text = `${[
  `.TH FDPASS 1 "" "${root.version()}" "User Commands"`,
  '.SH NAME',
  `fdpass \\- ${escape(description.charAt(0).toLowerCase() + description.slice(1).replace(/\.$/, ''))}`,
  '.SH SYNOPSIS',
  commands
    .filter(({ subcommands }) => subcommands.length === 0)
    .flatMap((command) => usagesOf(command).map((usage) => `.B fdpass ${command.fullName}\n${escape(usage)}`))
    .join('\n.br\n'),
  '.SH DESCRIPTION',
  prose(description),
  'The receiver of a descriptor has the open file itself, not its name.',
  '.SH COMMANDS',
  ...commands.flatMap(section),
  '.SH EXIT STATUS',
  ...list(exitCodes),
  '.SH ENVIRONMENT',
  ...list([['FDPASS_DEBUG', 'With 1, an error is printed with its stack trace.']]),
  '.SH SEE ALSO',
  '.BR cat (1),\n.BR ss (8),\n.BR unix (7),\n.BR sd_listen_fds (3),\n.BR systemd.socket (5)'
].join('\n')}\n`

if (!process.argv.includes('--check')) {
  mkdirSync(join(folder, 'man'), { recursive: true })
  writeFileSync(page, text)
} else if (readFileSync(page, 'utf8') !== text) {
  console.error(
    'man/fdpass.1 differs from the definitions of the commands: run `npm run docs`, and commit the page with them.'
  )
  process.exitCode = 1
}

import { type Option, Argument } from 'commander'
import type { CliCommand } from './cli-command.ts'

export function define(command: CliCommand, buildComplete: () => Promise<CliCommand>): void {
  command
    .usage('SHELL')
    .addArgument(new Argument('<SHELL>', 'The shell.').choices(Object.keys(scripts)))
    .description('Prints a script with which a shell completes the commands and options of fdpass.')
    .addExample(
      `
# Enable completion in this bash; add the line to ~/.bashrc to keep it
eval "$(fdpass completion bash)"`
    )
    .addExample(
      `
# Enable completion in every zsh and fish
mkdir -p ~/.zsh/completions ~/.config/fish/completions
fdpass completion zsh > ~/.zsh/completions/_fdpass
fdpass completion fish > ~/.config/fish/completions/fdpass.fish`
    )
    .action(async (shell: keyof typeof scripts) => {
      process.stdout.write(scripts[shell](await buildComplete()))
    })
}

const scripts = { bash, zsh, fish }

const optionsOf = (command: CliCommand) => command.createHelp().visibleOptions(command)
const flagsOf = ({ short, long }: Option) => [short, long].filter((flag) => flag !== undefined)
/** The completions for the values of options. Other options have choices, or no completions. */
const sources: Readonly<Record<string, { readonly bash?: string; readonly zsh: string; readonly fish: string }>> = {
  '--user': { bash: '-u', zsh: '_users', fish: '(__fish_complete_users)' },
  '--group': { bash: '-g', zsh: '_groups', fish: '(__fish_complete_groups)' },
  '--cwd': { zsh: '_directories', fish: '(__fish_complete_directories)' },
  '--config': { zsh: '_files', fish: '(__fish_complete_path)' }
}
/** Returns the words that complete an operand: the choices of an argument, or the names of subcommands. */
const choicesOf = (command: CliCommand) => [
  ...command.subcommands.map((each) => each.name()),
  ...(command.subcommands.length > 0 ? ['help'] : []),
  ...command.registeredArguments.flatMap(({ argChoices = [] }) => argChoices)
]

function bash(root: CliCommand): string {
  const commands = root.descendants.slice(1)
  const groups = root.subcommands.filter(({ subcommands }) => subcommands.length > 0).map((command) => command.name())
  const values = commands.flatMap((command) =>
    optionsOf(command).flatMap(({ long, argChoices }) => {
      const words = argChoices === undefined ? sources[long!]?.bash : `-W '${argChoices.join(' ')}'`
      if (words === undefined) return []
      return `    '${command.fullName} ${long}') COMPREPLY=($(compgen ${words} -- "$cur")); return ;;`
    })
  )
  const words = commands.map((command) => {
    const flags = optionsOf(command).flatMap(flagsOf)
    return `    '${command.fullName}') options='${flags.join(' ')}' operands='${choicesOf(command).join(' ')}' ;;`
  })
  return `# bash completion for fdpass
_fdpass() {
  local cur=\${COMP_WORDS[COMP_CWORD]} command=\${COMP_WORDS[1]} options='' operands='' i
  COMPREPLY=()
  for ((i = 2; i < COMP_CWORD; i++)); do [[ \${COMP_WORDS[i]} == -- ]] && return; done
  case $command in
    ${groups.join('|')}) if ((COMP_CWORD > 2)); then command+=" \${COMP_WORDS[2]}"; fi ;;
  esac
  case "$command \${COMP_WORDS[COMP_CWORD-1]}" in
${values.join('\n')}
  esac
  case $command in
${words.join('\n')}
  esac
  ((COMP_CWORD == 1)) && options='--help --version' operands='${choicesOf(root).join(' ')}'
  [[ $cur == -* ]] && operands=$options
  COMPREPLY=($(compgen -W "$operands" -- "$cur"))
}
complete -o bashdefault -o default -F _fdpass fdpass
`
}

const zshQuote = (text: string) => text.replaceAll("'", "'\\''")

/** Returns the zsh code that completes the words after a command. */
function zshOf(command: CliCommand): string {
  const specs = optionsOf(command).map((option) => {
    const flags = flagsOf(option)
    const about = `[${zshQuote(option.description).replace(/[[\]:]/g, '\\$&')}]`
    const from =
      option.argChoices === undefined ? (sources[option.long!]?.zsh ?? ' ') : `(${option.argChoices.join(' ')})`
    const value = option.required ? `:${option.attributeName()}:${from}` : ''
    return flags.map((flag) => `'*${flag}${about}${value}'`).join(' ')
  })
  if (command.subcommands.length === 0) {
    const choices = choicesOf(command)
    const rest = choices.length > 0 ? `'1:value:(${choices.join(' ')})'` : "'*:file:_files'"
    return `_arguments -S ${[...specs, rest].join(' \\\n      ')}`
  }
  const described = command.subcommands.map((each) => `'${each.name()}:${zshQuote(each.summary())}'`)
  const cases = command.subcommands.map((each) => `    ${each.name()}) ${zshOf(each)} ;;`)
  return `if ((CURRENT == 2)); then
    commands=(${described.join(' ')} 'help:Print the help of a command')
    _describe command commands
    _arguments ${specs.join(' ')}
    return
  fi
  shift words; ((CURRENT--))
  case $words[1] in
${cases.join('\n')}
  esac`
}

function zsh(root: CliCommand): string {
  return `#compdef fdpass
_fdpass() {
  local -a commands
  ${zshOf(root)}
}
if [[ $funcstack[1] == _fdpass ]]; then _fdpass "$@"; else compdef _fdpass fdpass; fi
`
}

const fishQuote = (text: string) => `'${text.replace(/['\\]/g, '\\$&')}'`

function fish(root: CliCommand): string {
  const lines = root.descendants.flatMap((command) => {
    const below = `complete -c fdpass -n ${fishQuote(`__fdpass_below ${command.fullName}`.trim())}`
    const next = `complete -c fdpass -n ${fishQuote(`__fdpass_next ${command.fullName}`.trim())}`
    const options = optionsOf(command).map(({ short, long, required, argChoices, description }) => {
      const from = argChoices?.join(' ') ?? sources[long!]?.fish
      const value = required ? (from === undefined ? ' -x' : ` -x -a ${fishQuote(from)}`) : ''
      const flags = `${short === undefined ? '' : ` -s ${short.slice(1)}`} -l ${long!.slice(2)}`
      return `${command.subcommands.length > 0 ? next : below}${flags}${value} -d ${fishQuote(description)}`
    })
    if (command.subcommands.length === 0) {
      const choices = choicesOf(command)
      return choices.length > 0 ? [...options, `${below} -f -a '${choices.join(' ')}'`] : options
    }
    const names = command.subcommands.map((each) => `${next} -f -a ${each.name()} -d ${fishQuote(each.summary())}`)
    return [...names, ...options]
  })
  return `# fish completion for fdpass
function __fdpass_next
  set -l words (commandline -opc)
  set -e words[1]
  test "$words" = "$argv"
end
function __fdpass_below
  set -l words (commandline -opc)
  set -e words[1]
  set -l count (count $argv)
  test "$words[1..$count]" = "$argv"
end
${lines.join('\n')}
`
}

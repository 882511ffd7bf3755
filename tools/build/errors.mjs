// Generates docs/errors.md: each code with its texts, which tools/build/error-messages.mjs reads from the sources, and with the remedies below.
// With --check it compares instead. Both fail for a code without a remedy, for a remedy without a code, and for a code that no test asserts.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { format } from 'prettier'
import ts from '@typescript/typescript6'
import { describeErrno } from '../../dist/lib/native/binding.js'
import { constants } from 'node:os'
import { root } from '../run.mjs'
import { readMessages } from './error-messages.mjs'

/** For each code of fdpass: when it occurs, and what to do. */
const ofPackage = {
  ABORT_ERR: [
    'The `signal` of a call was aborted, or the peer cancelled the request.',
    'Read `cause`, the reason of the signal. A receive loses nothing: call it again.'
  ],
  ERR_CONTROL_TRUNCATED: [
    'The kernel could not deliver every descriptor of a message.',
    'Close descriptors or raise `RLIMIT_NOFILE`; let the peer send again. `data` has the bytes.'
  ],
  ERR_DESCRIPTOR_CLOSED: [
    'A method was called on a `Descriptor` that is closed, released or cast.',
    'Use the object that the cast returned, or `duplicate()` the descriptor before.'
  ],
  ERR_HANDLE_NOT_RECEIVED: [
    "The peer of Node's IPC channel could not receive a handle.",
    'Raise `RLIMIT_NOFILE` in the peer, and send again.'
  ],
  ERR_INVALID_ARG_TYPE: [
    'An argument or option has the wrong type.',
    'Pass a value of the type that the message names.'
  ],
  ERR_INVALID_ARG_VALUE: [
    'An argument or option has an unacceptable value.',
    'The message names the accepted values, or what to do first.'
  ],
  ERR_INVALID_FD_TYPE: [
    'A descriptor is of a kind that the method cannot use.',
    'Use the method that the message names; `kind` is the kind of a `Descriptor`.'
  ],
  ERR_INVALID_RETURN_VALUE: ['A callback returned a value of the wrong type.', 'Return what the message names.'],
  ERR_INVALID_STATE: [
    'The object, or the process, is in a state that does not allow the call.',
    'The message names the state. Await the pending call, or call earlier.'
  ],
  ERR_NO_DESCRIPTOR: [
    '`recvFd()` received a message without a descriptor.',
    'Receive with `recv()` if some messages carry none. `data` has the bytes.'
  ],
  ERR_NO_HANDLER: [
    'The peer of a channel serves no requests.',
    'Set a request handler in the peer, or send a message.'
  ],
  ERR_OUT_OF_RANGE: ['A number is outside of its range.', 'Pass a number in the range that the message names.'],
  ERR_SERVER_CLOSED: [
    'A superserver was closed while a call was pending, or before it.',
    'Start another one with `superserve()`.'
  ],
  ERR_SOCKET_ALREADY_BOUND: ['A program under `fdpass/listen` binds a UDP socket twice.', 'Bind each socket once.'],
  ERR_SOCKET_CLOSED: [
    'A socket, broker or store is closed, or was closed while the call was pending.',
    'Connect again, if this process did not intend to close it.'
  ],
  ERR_SOCKET_NOT_EMPTY: [
    '`release()` would lose messages or connections that an iteration has received ahead.',
    'Receive or accept them first.'
  ],
  ERR_STORE_MOVED: [
    'A store has passed its descriptors to a successor. A client of fdpass repeats the request.',
    'In another client: connect to the same address again.'
  ],
  ERR_TOO_MANY_DESCRIPTORS: [
    'The peer sent more descriptors than `maxFds`.',
    'Raise `maxFds`, or have the peer send fewer. All of them are closed.'
  ],
  ERR_TOO_MANY_PENDING: [
    'A channel has `maxPending` pending requests or messages.',
    'Await some of them, or raise `maxPending`.'
  ],
  ERR_UNEXPECTED_CONTROL: [
    'A message has a control message that the socket does not expect.',
    'Set `credentials` or `pidfd` if the peer sends those.'
  ],
  ERR_UNEXPECTED_END: [
    'The peer closed the connection before the expected bytes or descriptor arrived.',
    'Look at the peer. `data` has the bytes that arrived.'
  ],
  ERR_UNSUPPORTED_PLATFORM: [
    'The platform or runtime lacks what the call needs.',
    'Use the alternative that the message names; see [Runtimes and platforms](guide/runtimes.md).'
  ],
  ERR_WORKER_FAILED: [
    'A worker ended, or its time passed, before it was ready.',
    'Read its output and the `exitCode` and `signal` of the error; raise `readyTimeout` if it is slow.'
  ]
}

/** For each code of the system that fdpass itself uses, for the cases below: when it occurs, and what to do. */
const ofSystem = {
  EACCES: [
    'The listening process is not allowed, does not allow this user, or the entry of a store does not.',
    'Check `allow`, the user of both processes, and the permissions of the entry.'
  ],
  EADDRINUSE: [
    'A program under `fdpass/listen` listens twice on one address.',
    'Listen once, or pass a second socket.'
  ],
  EAFNOSUPPORT: [
    'NOTIFY_SOCKET is outside of this virtual machine.',
    'Run the service under the service manager of the same machine.'
  ],
  EAGAIN: [
    'The listener has as many connections as it accepts, or a file may block.',
    'Try again later, or raise `maxConnections` of the listener.'
  ],
  EBADF: [
    'A descriptor that LISTEN_FDS announces is not open.',
    'Pass it, or correct LISTEN_FDS. Call `listenFds()` before anything closes it.'
  ],
  EEXIST: [
    'The store has an entry of this name, or fdpass owns a descriptor of LISTEN_FDS already.',
    'Use another name or `replace`; call `listenFds()` once.'
  ],
  ECONNRESET: [
    'The connection of a channel ended while requests were pending.',
    'Connect again. Repeat only requests that may run twice.'
  ],
  EDQUOT: [
    'The user has as many descriptors in the store as `maxPerUser` allows.',
    'Delete entries, or raise `maxPerUser`.'
  ],
  EINVAL: [
    'An environment variable has a malformed value.',
    'Correct what sets it: a parent, a superserver or systemd.'
  ],
  EIO: ['The store has failed.', 'Read the warning of the process that serves it.'],
  EMSGSIZE: [
    'A received message exceeds a limit of this process.',
    'Raise `maxBytes` or `maxFds` if you trust the peer.'
  ],
  ENAMETOOLONG: [
    "A socket's address exceeds the platform's limit (107 bytes on Linux).",
    'Use a shorter path, or a relative one.'
  ],
  ENOENT: ['The store has no entry of this name.', 'Check the name with `list()`; the entry may have expired.'],
  ENOSPC: ['The store has as many descriptors as `maxFds` allows.', 'Delete entries, or raise `maxFds`.'],
  ENOTCONN: ['A stream without a peer was written to.', "Wait for 'connect'."],
  EPERM: ['The user may not own this entry of a store.', 'Use a group of your own, or a user that the store knows.'],
  EPIPE: ['The peer of a channel has closed it.', 'Connect again, and send what was not acknowledged.'],
  EPROTO: [
    'The peer violated a protocol of [PROTOCOL.md](../PROTOCOL.md). The connection is closed.',
    'Check that both ends speak the same protocol and version.'
  ],
  ETIMEDOUT: [
    'A reply, a helper or a successor did not arrive in time.',
    'Raise the timeout, or find out what the other process waits for.'
  ]
}

/** For each exit code of the command line. */
const ofCommandLine = {
  1: ['The command failed.', 'The text names the cause. `FDPASS_DEBUG=1` adds the stack.'],
  2: ['The command line is invalid.', 'Run the command with `--help`.'],
  126: ['PROGRAM cannot be executed.', 'Check its permissions.'],
  127: ['PROGRAM was not found.', 'Check its name and PATH.']
}

/** For each warning of the process. */
const ofWarnings = {
  FDPASS_LISTEN_CLUSTER: [
    "The primary process of node:cluster took the passed sockets; its workers' connections are not drained.",
    'Run the program without cluster: the superserver has workers.'
  ],
  FDPASS_LISTEN_UNMATCHED: [
    'A program listens on an address that was not passed to it.',
    'Pass the address, or name the port in `--listen WHERE=PORT`.'
  ],
  FDPASS_NOT_CLOSED: [
    'The garbage collector found an open descriptor, socket or message.',
    'Close what you own: `close()`, `closeSync()` or `using`.'
  ],
  FDPASS_POLICY_FAILED: ['The `allow` function of a broker threw.', 'Correct the function. The request was denied.'],
  FDPASS_SERVICE_FAILED: [
    'A service cannot accept connections for now, for instance because the descriptor table is full.',
    'Remove the cause that the text names. The service tries again.'
  ],
  FDPASS_WATCHDOG: ['systemd cannot be notified that the service is alive.', 'Check NOTIFY_SOCKET and NotifyAccess=.']
}

/** The errors without a code: those that never reach a user, and what replaces them. */
const withoutCode = {
  unwritten: 'internal to handOver()',
  '<message>': "a peer's error with its own code",
  'The peer gave no reason': "a peer's error with its own code",
  '<syscall> failed': "the command line prints the error number's description"
}

const files = ['index.ts', ...readdirSync(join(root, 'lib'), { recursive: true }).map((name) => join('lib', name))]
  .filter((name) => name.endsWith('.ts'))
  .map((name) => join(root, name))

/** Returns a text as the page shows it. */
function normal({ code, type, text }) {
  if (type === 'SystemError') {
    const { text: description } = describeErrno(constants.errno[code])
    return text.replace('…', description.charAt(0).toLowerCase() + description.slice(1))
  }
  const anyName = code === 'ERR_INVALID_ARG_TYPE' || code === 'ERR_OUT_OF_RANGE'
  return text
    .replaceAll(/<[^>]+>/g, (name) => name.replace(/^<(?:at|argument|option|given|path)>$/, '<name>'))
    .replaceAll('<error>', '<message>')
    .replace(/"([^"]+)"(?: property| argument)?/, (quoted, name) => {
      const kind = /" (?:property|argument)$/.test(quoted) ? (name.includes('.') ? ' property' : ' argument') : ''
      return anyName ? `"<name>"${kind === '' ? '' : ' argument'}` : `"${name}"${kind}`
    })
}

const problems = []
/** The texts of each code. */
const texts = new Map()
for (const message of readMessages(files)) {
  const { type } = message
  const text = normal(message)
  const code = type === 'InvalidArgumentError' ? '2' : message.code
  if (code === 'none' && !Object.hasOwn(withoutCode, text))
    problems.push(`${message.file}: an error has no code: ${text}`)
  // Texts that come whole from elsewhere, and an empty part where the condition of the text excludes it.
  if (code === 'none' || / {2}/.test(text) || /^(?:The "[^"]*" \w+ )?<[^>]*>$/.test(text)) continue
  // A descriptor of LISTEN_FDS cannot be adopted: the code is the system's, and two of them have a text.
  const codes =
    code !== '<code>' ? [code] : text.includes('is not open') ? ['EBADF'] : text.includes('owned') ? ['EEXIST'] : []
  for (const each of codes)
    texts.set(each, (texts.get(each) ?? new Set()).add(code === each ? text : text.replace('<code>', each)))
}

const remedies = { ...ofPackage, ...ofSystem, ...ofCommandLine, ...ofWarnings }
for (const code of texts.keys()) {
  if (!Object.hasOwn(remedies, code)) problems.push(`tools/build/errors.mjs has no remedy for the code ${code}`)
}
for (const code of Object.keys(remedies)) {
  if (!texts.has(code)) problems.push(`tools/build/errors.mjs has a remedy for ${code}, which no source file has`)
}

/** Returns the codes that tests assert: in a string or regular expression of a call that receives `t`, or of one of its methods. */
function assertedCodes() {
  const found = new Set()
  for (const name of readdirSync(join(root, '__test__'), { recursive: true })) {
    if (!name.endsWith('.spec.ts')) continue
    const source = ts.createSourceFile(
      name,
      readFileSync(join(root, '__test__', name), 'utf8'),
      ts.ScriptTarget.Latest,
      true
    )
    const visit = (node, isAsserted) => {
      const isAssertion =
        isAsserted ||
        (ts.isCallExpression(node) && /^t\.(?!log|teardown|context)/.test(node.expression.getText())) ||
        (ts.isCallExpression(node) && node.arguments[0]?.getText() === 't') ||
        (ts.isPropertyAssignment(node) && node.name.getText() === 'code')
      const isText =
        ts.isStringLiteralLike(node) || ts.isRegularExpressionLiteral(node) || ts.isTemplateLiteralToken(node)
      if (isText && isAssertion) for (const [code] of node.getText().matchAll(/\b[A-Z][A-Z_]{2,}\b/g)) found.add(code)
      ts.forEachChild(node, (child) => visit(child, isAssertion))
    }
    visit(source, false)
  }
  return found
}

const asserted = assertedCodes()
for (const code of Object.keys({ ...ofPackage, ...ofSystem, ...ofWarnings })) {
  if (!asserted.has(code)) problems.push(`no test asserts the code ${code}`)
}

const cell = (text) => text.replaceAll('|', '\\|')

function section(title, introduction, codes, heading = (code) => code) {
  const names = Object.keys(codes).toSorted()
  const rows = names.map((code) => {
    const anchor = heading(code).toLowerCase().replaceAll(' ', '-')
    return `| [${heading(code)}](#${anchor}) | ${codes[code].map(cell).join(' | ')} |`
  })
  const lists = names.map((code) => {
    const lines = [...(texts.get(code) ?? [])].toSorted((a, b) => (a < b ? -1 : 1))
    return `### ${heading(code)}\n\n\`\`\`text\n${lines.join('\n')}\n\`\`\`\n`
  })
  return [
    `## ${title}`,
    introduction,
    ['| code | when | what to do |', '| - | - | - |', ...rows].join('\n'),
    ...lists
  ].join('\n\n')
}

const page = `# Errors

Every error of fdpass has a \`code\`. An error of a system call also has Node's \`errno\` and \`syscall\`, and \`address\` or \`path\` if it is about one.
A text is for people, and may change in any version; a code changes in a major version only. Words in \`<>\` are filled in.

An error about an argument is a \`TypeError\` or \`RangeError\` whose \`argument\` is the name and whose \`reason\` is the text behind it.

${section('Codes of fdpass', 'Node has the codes that begin with ERR_INVALID_ARG, ERR_OUT_OF_RANGE and ABORT_ERR too.', ofPackage)}

${section(
  'Codes of the system',
  `Any system call can fail: the code is the name of its error number, and the text is \`CODE: description, syscall\`, such as
\`EPIPE: broken pipe, sendmsg\`. The manual page of the system call explains it. In the following cases fdpass itself reports such a code.`,
  ofSystem
)}

${section('Warnings', "fdpass emits these by `process.emitWarning()`. A listener of the process's 'warning' event receives them.", ofWarnings)}

${section(
  'Command line',
  'The command line prints `fdpass: <command>: <text>` to standard error, and exits with one of these codes.',
  ofCommandLine,
  (code) => `Exit code ${code}`
)}
`
const path = join(root, 'docs', 'errors.md')
const { prettier } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const text = await format(page, { ...prettier, parser: 'markdown' })

for (const problem of problems) console.error(problem)
if (problems.length > 0) process.exitCode = 1
else if (!process.argv.includes('--check')) writeFileSync(path, text)
else if (readFileSync(path, 'utf8') !== text) {
  console.error('docs/errors.md differs from the sources: run `npm run docs`, and commit the page with them.')
  process.exitCode = 1
}

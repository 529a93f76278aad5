# Part of bugfeed: tells open pages of Bugzilla which bugs have just changed.
package Bugzilla::Extension::Bugfeed;

use 5.10.1;
use strict;
use warnings;

use constant NAME => 'Bugfeed';

__PACKAGE__->NAME;
